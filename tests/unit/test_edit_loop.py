"""The loop with the real FT method on a tiny model; nothing is stood in for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.artefacts import Artefacts, read_state, write_state
from trainables.backbones.loading import load_backbone
from trainables.backbones.pristine import Pristine
from trainables.backbones.split import PrefixCache, Split
from trainables.datasets.streams import to_edit
from trainables.edit_loop import Before, EditLoop, EditProtocol
from trainables.interfaces import Backbone, EditMethod, EditRecord, Question
from trainables.methods.ft import Config, FineTuning
from trainables.metrics.evaluator import Evaluator
from trainables.seeding import trial_generators

RECORDS = tuple(
    EditRecord(
        record_id=f"r{number}",
        prompt=prompt,
        target_new=target,
        rephrases=(f"Tell me: {prompt}",),
        locality=(Question("Who wrote The Long Tide?", "Ivo Marsh", "locality_far"),),
    )
    for number, (prompt, target) in enumerate(
        [
            ("The capital of Fooland is", "Bar City"),
            ("Where was Ada Quell born?", "Vesper"),
            ("Ada Quell works for", "Lumen Works"),
            ("Who leads Oslo Bay?", "Ivo Marsh"),
        ]
    )
)


def make_loop(
    backbone: Backbone,
    folder: Path,
    batches: list[list[int]],
    *,
    is_rolled_back: bool,
    num_steps: int = 20,
    generates: bool = False,
) -> EditLoop:
    artefacts = Artefacts(folder)
    evaluator = Evaluator(backbone.tokenizer, RECORDS)
    pristine = Split(backbone, 0, PrefixCache())
    chosen = evaluator.select()
    texts = evaluator.generations(pristine.logits, chosen) if generates else None
    before = Before(evaluator.answers(pristine.logits, chosen), texts)
    config = Config(2, "target_new", 0.02, num_steps, 0.0, None)

    def make() -> EditMethod:
        return FineTuning(config, backbone, artefacts, trial_generators(0))

    return EditLoop(
        make,
        backbone.tokenizer,
        evaluator,
        batches,
        EditProtocol(is_rolled_back, target_ends_with_eos=True, generates=generates),
        before,
        to_edit=to_edit,
    )


def test_batch_protocol_averages_over_batches_and_leaves_the_backbone_pristine(
    llama: Backbone, tmp_path: Path
) -> None:
    pristine = Pristine(llama.model, full_every=1)
    loop = make_loop(llama, tmp_path, [[0, 1], [2, 3]], is_rolled_back=True)
    row = loop.run()
    pristine.check()
    assert row["progress"] == 1.0
    assert row["edits_seen"] == 4
    assert row["num_steps"] == 40  # two batches of 20 steps
    per_record = [s.token for s in loop.probe_scores()["final"] if s.score == "reliability"]
    assert len(per_record) == 4
    assert row["reliability.token.final"] == pytest.approx(sum(per_record) / 4)
    assert row["reliability.token.final"] > row["reliability.token.before"]
    assert row["locality_far.token.before"] == 1.0
    assert "retention.token.final" not in row  # nothing is older than the last batch


def test_batches_that_are_rolled_back_do_not_know_of_each_other(
    llama: Backbone, tmp_path: Path
) -> None:
    both = make_loop(llama, tmp_path, [[0, 1], [2, 3]], is_rolled_back=True)
    both.run()
    alone = make_loop(llama, tmp_path, [[2, 3]], is_rolled_back=True)
    alone.run()
    second = [s for s in both.probe_scores()["final"] if s.record in (2, 3)]
    assert second == alone.probe_scores()["final"]


def test_lifelong_protocol_scores_at_once_and_again_at_the_end(
    llama: Backbone, tmp_path: Path
) -> None:
    loop = make_loop(llama, tmp_path, [[3], [0], [1, 2]], is_rolled_back=False)
    row = loop.run()
    final = {s.record: s.token for s in loop.probe_scores()["final"] if s.score == "reliability"}
    assert set(final) == {0, 1, 2, 3}
    # retention: the edits of all batches but the last, [1, 2]
    assert row["retention.token.final"] == pytest.approx((final[3] + final[0]) / 2)
    immediate = [s for s in loop.probe_scores()["immediate"] if s.score == "reliability"]
    assert row["reliability.token.immediate"] == pytest.approx(sum(s.token for s in immediate) / 4)
    loop.close()


def test_run_in_quarters_gives_the_same_end_as_run_at_once(llama: Backbone, tmp_path: Path) -> None:
    def numbers(row: dict[str, float]) -> dict[str, float]:
        return {k: v for k, v in row.items() if not k.endswith("seconds")}

    straight = make_loop(llama, tmp_path, [[0, 1], [2, 3]], is_rolled_back=True)
    whole = straight.run()
    loop = make_loop(llama, tmp_path, [[0, 1], [2, 3]], is_rolled_back=True)
    first = loop.run(0.25, "reliability.token")
    # half of the first of two batches: 10 of its 20 steps
    assert first["progress"] == pytest.approx(0.25)
    assert set(first) == {"progress", "edits_seen", "reliability.token.rung"}
    assert loop.run(0.5, "reliability.token")["progress"] == pytest.approx(0.5)
    assert numbers(loop.run(1.0)) == numbers(whole)


def test_state_when_stored_within_a_batch_then_another_process_ends_alike(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    def run(stops_at: float | None) -> dict[str, Any]:
        backbone = load_backbone(checkpoints["llama"])
        loop = make_loop(backbone, tmp_path, [[0], [1, 2], [3]], is_rolled_back=False)
        if stops_at is not None:
            loop.run(stops_at)
            write_state(tmp_path / "state", loop.state())
            backbone = load_backbone(checkpoints["llama"])
            loop = make_loop(backbone, tmp_path, [[0], [1, 2], [3]], is_rolled_back=False)
            state = read_state(tmp_path / "state")
            assert state is not None
            loop.load(state)
        return {k: v for k, v in loop.run().items() if not k.endswith("seconds")}

    assert run(stops_at=0.5) == run(stops_at=None)


def test_generation_feeds_the_prompt_alone_and_is_scored_as_text(
    llama: Backbone, tmp_path: Path
) -> None:
    loop = make_loop(llama, tmp_path, [[0]], is_rolled_back=True, num_steps=80, generates=True)
    row = loop.run()
    edited = next(s for s in loop.probe_scores()["final"] if s.score == "reliability")
    assert edited.exact == 1.0
    assert edited.text == "Bar City"  # closed by the end token that was trained
    assert row["reliability.generated.final"] == 1.0


def test_evaluator_scores_two_of_three_tokens_as_two_thirds(llama: Backbone) -> None:
    evaluator = Evaluator(llama.tokenizer, RECORDS[:1])
    chosen = evaluator.select(scores=["reliability"])
    right = evaluator._rows[chosen[0]].target
    wrong = (*right[:-1], right[-1] + 1)
    score = evaluator.score({chosen[0]: wrong}, {})[0]
    assert score.token == pytest.approx((len(right) - 1) / len(right))
    assert score.exact == 0.0


def test_evaluator_answers_do_not_depend_on_the_batch(llama: Backbone) -> None:
    split = Split(llama, 0, PrefixCache())
    one = Evaluator(llama.tokenizer, RECORDS, batch_size=1)
    many = Evaluator(llama.tokenizer, RECORDS, batch_size=64)
    with torch.no_grad():
        assert one.answers(split.logits, one.select()) == many.answers(split.logits, many.select())
