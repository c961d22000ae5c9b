"""Tasks over hand-made files: a method's logits answer as the harness's own HFLM does."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra `ability`")

import lm_eval.evaluator
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tests.unit.trials.test_loop import make_loop
from trainables.ability import edited_model
from trainables.ability.abilities import abilities
from trainables.ability.edited_model import EditedModel
from trainables.ability.harness import HarnessTask, tasks_of
from trainables.artefacts import Artefacts
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.errors import ConfigError
from trainables.interfaces import Backbone
from trainables.spec import EvaluateSpec

WORDS = [
    "Ada",
    "Quell",
    "works",
    "for",
    "Lumen",
    "Works",
    "in",
    "Oslo",
    "Bay",
    "and",
    "wrote",
    "The",
    "Long",
    "Tide",
]
MOST = 64  # positions of the tiny models


def written(folder: Path, name: str, records: list[dict[str, Any]]) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Questions of many lengths, some longer than the tiny models have positions."""
    path, draw = tmp_path_factory.mktemp("tasks"), random.Random(0)

    def text(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(2, most)))

    boolq = [{"question": text(6), "passage": text(30), "answer": bool(n % 2)} for n in range(9)]
    written(path, "boolq", boolq)
    written(
        path,
        "mutual",
        [
            {"article": text(12), "options": [text(9) for _ in range(4)], "answer": "ABCD"[n % 4]}
            for n in range(6)
        ],
    )
    written(path, "nq_open", [{"question": text(8), "answer": [text(2)]} for _ in range(7)])
    return str(path)


def hflm(backbone: Backbone) -> HFLM:
    return HFLM(pretrained=backbone.model, tokenizer=backbone.tokenizer, batch_size=3)


def ours(backbone: Backbone) -> EditedModel:
    return EditedModel(Split(backbone, 0, PrefixCache()).logits, backbone)


def requests_of(name: str, wanted: EvaluateSpec) -> list[Instance]:
    found = []
    for task in tasks_of(name, wanted).values():
        task.build_all_requests(limit=None, rank=0, world_size=1)
        found += task.instances
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("name", ["boolq", "mutual"])
def test_loglikelihoods_are_those_of_hflm(
    name: str, family: str, folder: str, fresh: Callable[[str], Backbone]
) -> None:
    backbone = fresh(family)
    asked = requests_of(name, EvaluateSpec((name,), path=folder))
    mine = ours(backbone).loglikelihood(asked, disable_tqdm=True)
    theirs = hflm(backbone).loglikelihood(asked, disable_tqdm=True)
    assert [each[0] for each in mine] == pytest.approx([each[0] for each in theirs], abs=1e-4)
    assert [each[1] for each in mine] == [each[1] for each in theirs]


def test_rows_that_are_read_are_few(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that differ in their last token share a row; a batch is bounded in tokens."""
    split, rows, tokens = Split(llama, 0, PrefixCache()), list[int](), list[int]()
    monkeypatch.setattr(edited_model, "MOST_ON_CPU", 60)

    def logits(prompts: Any, state: Any) -> Any:
        rows.append(len(prompts.input_ids))
        tokens.append(prompts.input_ids.numel())
        return split.logits(prompts, state)

    short, long = [1, 7, 8, 9], list(range(1, 31))
    asked = [(short, [4]), (short, [5]), (long, [4]), (long, [5, 6]), (long, [5, 7]), (long, [8])]
    requests = [(None, context, answer) for context, answer in asked]
    found = EditedModel(logits, llama)._loglikelihood_tokens(requests)
    assert sum(rows) == 3  # the short context, the long one, the long one with a 5
    assert max(tokens) <= 60
    theirs = hflm(llama)._loglikelihood_tokens(requests, disable_tqdm=True)
    assert [each[0] for each in found] == pytest.approx([each[0] for each in theirs], abs=1e-4)


def test_rolling_loglikelihoods_are_those_of_hflm(llama: Backbone) -> None:
    texts = ["Ada Quell", " ".join(WORDS * 5)]
    assert len(llama.tokenizer(texts[1])["input_ids"]) > MOST  # several windows
    asked = [Instance("loglikelihood_rolling", {}, (text,), n) for n, text in enumerate(texts)]
    mine = ours(llama).loglikelihood_rolling(asked)
    assert mine == pytest.approx(hflm(llama).loglikelihood_rolling(asked, True), abs=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_texts_are_those_of_hflm(
    family: str, folder: str, fresh: Callable[[str], Backbone]
) -> None:
    backbone = fresh(family)
    asked = requests_of("nq_open", EvaluateSpec(("nq_open",), path=folder))
    mine = ours(backbone).generate_until(asked)
    assert mine == hflm(backbone).generate_until(asked, disable_tqdm=True)
    assert not any(stop in text for text in mine for stop in "\n.,")


def test_generate_until_when_a_task_samples_then_it_is_refused(llama: Backbone) -> None:
    told = {"do_sample": True, "temperature": 0.7, "max_gen_toks": 4}
    asked = [Instance("generate_until", {}, ("Ada", told), 0)]
    with pytest.raises(ConfigError, match="draws its answers at random"):
        ours(llama).generate_until(asked)
    too_many = [Instance("generate_until", {}, ("Ada", {"max_gen_toks": MOST}), 0)]
    with pytest.raises(ConfigError, match=f"generates {MOST} tokens; .* {MOST} positions"):
        ours(llama).generate_until(too_many)


@pytest.mark.parametrize("name", ["boolq", "mutual", "nq_open"])
def test_scores_are_those_of_the_harness(name: str, llama: Backbone, folder: str) -> None:
    wanted = EvaluateSpec((name,), 5, folder)
    task = HarnessTask(name, llama, wanted)
    answers = task.ask(Split(llama, 0, PrefixCache()).logits)
    assert [answer.question for answer in answers] == [str(n) for n in range(5)]
    theirs = lm_eval.evaluator.evaluate(
        hflm(llama), {"tasks": tasks_of(name, wanted)}, limit=5, bootstrap_iters=0
    )
    assert theirs is not None
    samples = theirs["samples"][name]
    values = [sample.get("acc", sample.get("score")) for sample in samples]
    values = [value[0] if isinstance(value, tuple) else float(value) for value in values]
    assert [answer.value for answer in answers] == values
    assert task.ask(Split(llama, 0, PrefixCache()).logits) == answers  # asked again: the same


def test_a_trial_tells_what_its_edits_changed(llama: Backbone, folder: str, tmp_path: Path) -> None:
    wanted = EvaluateSpec(("boolq", "mutual"), 6, folder)
    asked = abilities(wanted, llama, Artefacts(tmp_path))
    loop = make_loop(llama, tmp_path, [[0, 1], [2]], is_rolled_back=True, abilities=asked)
    row = loop.run()
    lines = [line for line in loop.record_lines() if line["when"] == "ability"]
    assert len(lines) == 2 * (6 + 6)  # after each of two batches
    for name in wanted.ability:
        own = [line for line in lines if line["score"] == f"ability.{name}"]
        before, after = (
            sum(line[key] for line in own) / len(own) for key in ("value_before", "value")
        )
        assert row[f"ability.{name}.before"] == pytest.approx(before)
        assert row[f"ability.{name}.final"] == pytest.approx(after)
        assert row[f"ability_change.{name}"] == pytest.approx(after - before)
    loop.close()


def test_what_the_unedited_model_wrote_is_kept_with_its_answers(
    llama: Backbone, folder: str, tmp_path: Path
) -> None:
    wanted = EvaluateSpec(("nq_open",), 6, folder)
    (first,) = abilities(wanted, llama, Artefacts(tmp_path)).tasks
    (second,) = abilities(wanted, llama, Artefacts(tmp_path)).tasks  # as in another process
    assert len(first.texts) == 6
    assert second.texts == first.texts
