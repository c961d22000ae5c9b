"""This project's side of peer.py: edits the records with one method, in a process of its own.

    python -m tests.benchmarks.peer_ours CASE FOLDER [profiled]

What is timed is the editing, tokenisation included; the model is loaded and the method prepared.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.peer_inputs import FILES, SEED, Inputs, Probe, Record, store_folder, text_file
from tests.benchmarks.peer_result import ANSWERS, ONE_BY_ONE, Result, is_each_alone, method_of
from trainables.artefacts import Artefacts
from trainables.backbones.loading import load_backbone
from trainables.bases import read_method
from trainables.interfaces import (
    Backbone,
    Edit,
    EditBatch,
    EditMethod,
    EditRecord,
    Question,
    SideBySide,
    TrainingRecord,
)
from trainables.methods import build_config, get_method, method_settings
from trainables.metrics.evaluator import Evaluator
from trainables.prompts import Row, collate, edit_batch, pad_id
from trainables.seeding import trial_generators

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


class Editing:
    """Counts the CPU seconds of editing and, if asked, what torch's operations have of its time."""

    def __init__(self, *, is_profiled: bool) -> None:
        """Nothing is edited."""
        self.seconds = 0.0
        self._elapsed = 0.0  # wall seconds, which torch's profiler counts too
        self._is_profiled = is_profiled
        self._of_operations: Counter[str] = Counter()  # microseconds

    @contextmanager
    def counted(self) -> Iterator[None]:
        """What is done inside is editing."""
        kinds = [torch.profiler.ProfilerActivity.CPU]
        profile = torch.profiler.profile(activities=kinds) if self._is_profiled else None
        with profile or nullcontext():
            begin, begin_wall = time.process_time(), time.perf_counter()
            yield
            self.seconds += time.process_time() - begin
            self._elapsed += time.perf_counter() - begin_wall
        for each in profile.key_averages() if profile else ():
            self._of_operations[each.key] += each.self_cpu_time_total

    @property
    def shares(self) -> dict[str, float]:
        """Of the time, what matrix products and torch's other operations took; {} unasked."""
        if not self._is_profiled:
            return {}
        products = sum(self._of_operations[name] for name in PRODUCTS) / 1e6
        others = self._of_operations.total() / 1e6 - products
        return {"products": products / self._elapsed, "others": others / self._elapsed}


def edited(case: str, inputs: Inputs, folder: Path, *, is_profiled: bool = False) -> Result:
    """Edit the records as `case` says, and what is answered then."""
    editing = Editing(is_profiled=is_profiled)
    backbone = load_backbone(inputs.model, device="cpu")
    method = _method(case, inputs, backbone, folder)
    with torch.no_grad():
        backbone.model(torch.tensor([inputs.probes[0].ids]))  # so that no edit pays for a start
    if case == ANSWERS:
        with editing.counted():
            answers = _asked(method, backbone, inputs)
        return Result.of(editing.seconds, answers, editing.shares)
    if is_each_alone(case):
        answers = _each_alone(method, backbone, inputs.records, editing)
        return Result.of(editing.seconds, answers, editing.shares)
    size = len(inputs.records) if case not in ONE_BY_ONE else 1
    for start in range(0, len(inputs.records), size):
        with editing.counted():
            _edit(method, backbone, inputs.records[start : start + size])
    answers = _answers(method, backbone, inputs.probes)
    return Result.of(editing.seconds, answers, editing.shares)


def _each_alone(
    method: SideBySide, backbone: Backbone, records: Sequence[Record], editing: Editing
) -> list[list[int]]:
    """Edits that know nothing of each other, learned side by side as a trial does."""
    assert isinstance(method, EditMethod)
    size, answers = method.most_side_by_side, list[list[int]]()
    for start in range(0, len(records), size):
        group = records[start : start + size]
        with editing.counted():
            method.begin_each(_batch(backbone, group))
            while not method.advance(method.num_steps):
                pass
            method.finish_each()
        for number, record in enumerate(group):
            with editing.counted():
                method.take(number)
            answers += _answers(method, backbone, record.probes)
        with editing.counted():
            method.remove()
    return answers


def _asked(method: EditMethod, backbone: Backbone, inputs: Inputs) -> list[list[int]]:
    """What is answered to each probe, as a trial asks."""
    records = []
    for number, record in enumerate(inputs.records):
        of = {each.score: each for each in record.probes}
        kept = of.get("locality")
        records.append(
            EditRecord(
                record_id=str(number),
                prompt=record.prompt,
                target_new=record.target_new,
                rephrases=(of["generality"].prompt,) if "generality" in of else (),
                locality=(Question(kept.prompt, kept.answer, "locality_near"),) if kept else (),
            )
        )
    evaluator = Evaluator(backbone.tokenizer, records)
    found = evaluator.answers(method.logits, evaluator.select())
    return [list(found[index]) for index in sorted(found)]


def _method(case: str, inputs: Inputs, backbone: Backbone, folder: Path) -> Any:
    name = method_of(case)
    values = read_method(FILES.get(name, name))
    settings = {**method_settings(values), **inputs.settings(name)}
    if "covariance_text" in settings:
        settings["covariance_text"] = str(text_file(folder))
    module = values.get("module", name)
    config, artefacts = build_config(module, settings), Artefacts(store_folder(folder))
    method = get_method(module)[1](config, backbone, artefacts, trial_generators(SEED))
    method.prepare([TrainingRecord(Edit(prompt, "", None)) for prompt in inputs.training])
    return method


def _batch(backbone: Backbone, records: Sequence[Record]) -> EditBatch:
    edits = [Edit(r.prompt, r.target_new, r.subject, (r.unrelated,)) for r in records]
    return edit_batch(backbone.tokenizer, edits, end=False)  # the peer trains no end token


def _edit(method: Any, backbone: Backbone, records: Sequence[Record]) -> None:
    method.begin(_batch(backbone, records))
    while not method.advance(method.num_steps):
        pass
    method.finish()


@torch.no_grad()
def _answers(method: Any, backbone: Backbone, probes: Sequence[Probe]) -> list[list[int]]:
    rows = [Row(tuple(probe.ids), probe.prompt_length) for probe in probes]
    logits, _ = method.logits(collate(rows, pad_id=pad_id(backbone.tokenizer)))
    counts = [len(probe.target) for probe in probes]
    return [each.tolist() for each in logits.argmax(-1).split(counts)]


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(1)
    case_, folder_, *more = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]
    edited(case_, Inputs.read(folder_), folder_, is_profiled="profiled" in more).write(folder_)
