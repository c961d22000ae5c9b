"""A whole trial of any method on pretended GPUs: edits, a checkpoint, answers, the restored model.

The methods are built as the contract suite builds them, on the tiny backbones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tests.contract.test_every_method import EDITS, MORE_EDITS, PROMPTS, make, with_chunker
from tests.contract.tiny_settings import TINY
from tests.devices import Devices, Sync, pretended
from trainables.backbones.loading import load_backbone
from trainables.backbones.pristine import Pristine
from trainables.bases import read_method
from trainables.interfaces import (
    Backbone,
    DecodeState,
    Edit,
    EditMethod,
    EditRecord,
    Question,
)
from trainables.methods import get_method
from trainables.metrics.evaluator import Evaluator
from trainables.metrics.prompt_routes import route_rows
from trainables.prompts import Row, collate, edit_batch, tokenise
from trainables.states import StateWriter, read_state
from trainables.trials.learner import Learner
from trainables.trials.measurements import edit_bytes
from trainables.trials.packs.lockstep import apart_for

Layout = Literal["one", "sharded"]
FAMILIES = ("llama", "gpt2")
LAYOUTS: tuple[Layout, ...] = ("one", "sharded")
HOME = (1, 2)  # the layers that the methods edit
# Each batch takes so many steps, of which the first, which fills caches, is not counted.
_STEPS = {"num_steps": 4, "v_num_steps": 4}
_STEPS_BEFORE = 3  # the checkpoint
_RECORDS = tuple(
    EditRecord(
        str(index),
        edit.prompt,
        edit.target_new,
        edit.subject,
        rephrases=(f"Tell me: {edit.prompt}",),
        locality=(Question(PROMPTS[1], "Bar", "locality_far"),),
    )
    for index, edit in enumerate(EDITS)
)


@dataclass(frozen=True)
class Trial:
    """What a trial did to the devices.

    Attributes:
        mixes: What operations on two devices said; none in a sound method.
        steps: Waits of each optimiser step but the first of a batch.
        state_bytes: Bytes that the method adds to the backbone.
        peak_bytes: The most that lay on each GPU.
    """

    mixes: tuple[str, ...]
    steps: tuple[tuple[Sync, ...], ...]
    state_bytes: int
    peak_bytes: dict[torch.device, int]

    @property
    def syncs_per_step(self) -> int:
        """Waits of the host in the worst step."""
        return len(self.worst_step)

    @property
    def worst_step(self) -> tuple[Sync, ...]:
        """The waits of the step with most of them."""
        return max(self.steps, key=lambda syncs: len(syncs), default=())


@contextmanager
def loaded(checkpoint: Path, layout: Layout) -> Iterator[tuple[Devices, Backbone]]:
    """A backbone on one pretended GPU, or over three of them by accelerate's hooks."""
    with pretended(1 if layout == "one" else 3) as devices:
        home = None if layout == "one" else HOME
        yield devices, load_backbone(checkpoint, device="cuda", home_layers=home)


def run_trial(name: str, checkpoint: Path, layout: Layout, folder: Path) -> Trial:
    """Everything that a trial does with the method of this name.

    On a sharded backbone the second batch runs in micro-batches, as where memory ran out.

    Raises:
        RuntimeError: At the first operation on two devices.
    """
    with loaded(checkpoint, layout) as (devices, backbone):
        pristine = Pristine(backbone.model, full_every=1)
        artefacts = with_chunker(folder / "artefacts", _first_word)
        evaluator = Evaluator(
            backbone.tokenizer, _RECORDS, max_positions=16, device=backbone.device
        )
        method = make(name, backbone, artefacts, **_STEPS)
        steps = _edit(method, backbone, devices, MORE_EDITS)
        method.finish()
        if layout == "sharded":
            backbone.micro_batch.halve()
        steps += _edit(method, backbone, devices, EDITS, stops=True)
        writer = StateWriter()
        writer.submit(folder / "state", method.state())
        writer.wait()
        method.remove()
        state = read_state(folder / "state")
        assert state is not None
        method = make(name, backbone, artefacts, seed=99, **_STEPS)
        method.load(state)
        while not method.advance(3):
            pass
        method.finish()
        _answer(method, backbone, evaluator)
        size = edit_bytes(method)
        peak = {gpu: devices.peak[gpu] for gpu in devices.gpus}
        method.remove()
        pristine.check()
        return Trial(tuple(devices.mixes), tuple(steps), size, peak)


def run_side_by_side(name: str, checkpoint: Path, layout: Layout, folder: Path) -> list[Sync]:
    """Waits of the worst step of edits that are learned side by side, each answered for.

    Raises:
        RuntimeError: At the first operation on two devices.
    """
    with loaded(checkpoint, layout) as (devices, backbone):
        pristine = Pristine(backbone.model, full_every=1)
        evaluator = Evaluator(
            backbone.tokenizer, _RECORDS, max_positions=16, device=backbone.device
        )
        artefacts = with_chunker(folder / "artefacts", _first_word)

        def made(on: Backbone) -> EditMethod:
            return make(name, on, artefacts, **_STEPS)

        _, method_class = get_method(read_method(name).get("module", name))

        def apart() -> EditMethod:
            return made(apart_for(method_class, backbone, TINY["edit_layer"]))

        learner = Learner(lambda: made(backbone), apart)
        batch = edit_batch(backbone.tokenizer, EDITS, end=True, device=backbone.device)
        learner.begin(batch, len(batch))
        steps: list[list[Sync]] = []
        is_done = False
        while not is_done:
            begin = len(devices.syncs)
            is_done = learner.advance(1)
            steps.append(devices.syncs[begin:])
        for number in range(len(learner.finish())):
            learner.take(number)
            _answer(learner.method, backbone, evaluator)
        learner.roll_back(goes_on=False)
        pristine.check()
        assert not devices.mixes
        return max(steps[1:], key=len)


def _edit(
    method: EditMethod,
    backbone: Backbone,
    devices: Devices,
    edits: tuple[Edit, ...],
    *,
    stops: bool = False,
) -> list[tuple[Sync, ...]]:
    """Waits of each step but the first; with `stops` the batch is left under way."""
    method.begin(edit_batch(backbone.tokenizer, edits, end=True, device=backbone.device))
    steps: list[tuple[Sync, ...]] = []
    is_done = False
    while not is_done and not (stops and len(steps) == _STEPS_BEFORE):
        begin = len(devices.syncs)
        is_done = method.advance(1)
        steps.append(tuple(devices.syncs[begin:]))
    return steps[1:]


@torch.no_grad()
def _answer(method: EditMethod, backbone: Backbone, evaluator: Evaluator) -> None:
    """Answer whole rows, generate, evaluate, tell the routes."""
    rows = [tokenise(backbone.tokenizer, prompt) for prompt in PROMPTS]
    prompts = collate(rows, pad_id=0, scores_last=True, device=backbone.device)
    logits, state = method.logits(prompts, DecodeState())
    tokens = logits.argmax(-1).tolist()
    step = collate(
        [Row((token,), 1) for token in tokens], pad_id=0, scores_last=True, device=backbone.device
    )
    method.logits(step, state)
    chosen = evaluator.select()
    found = evaluator.answers(method.logits, chosen)
    evaluator.perplexities(method.logits, chosen[:1])
    texts = evaluator.generations(method.logits, chosen[:2])
    evaluator.generations(method.logits, chosen[:2], found, texts)
    evaluator.score(found, found)
    route_rows(method, evaluator, range(len(_RECORDS)))


def _first_word(text: str) -> list[tuple[int, int]]:
    """Stands for the tool that finds names: loading that one takes seconds."""
    return [(0, text.find(" "))] if " " in text else []
