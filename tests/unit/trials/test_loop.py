"""The loop with the real FT method on a tiny model; nothing is stood in for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.ability.abilities import Abilities
from trainables.artefacts import Artefacts
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.backbones.loading import load_backbone
from trainables.backbones.pristine import Pristine
from trainables.draws.streams import to_edit
from trainables.edits.stream import EditStream
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, EditMethod, EditRecord, Question
from trainables.methods.ft import Config, FineTuning
from trainables.metrics.evaluator import Evaluator
from trainables.seeding import trial_generators
from trainables.states import read_state, snapshot, write_state
from trainables.trials.compared import Compares, compared
from trainables.trials.learner import Learner, Make
from trainables.trials.loop import EditLoop
from trainables.trials.protocol import Before, EditProtocol

RELIABILITY = Compares("reliability.token", ("reliability.token",))
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


# Two questions, each with the answers of two rounds: the last two records hold at the end.
SERIAL = tuple(
    replace(
        RECORDS[question], record_id=f"q{question}#{number}", target_new=answer, locality=locality
    )
    for number, answers in enumerate([("Oslo Bay", "Lumen"), ("Bar City", "Vesper")])
    for question, answer in enumerate(answers)
    for locality in [RECORDS[0].locality if number else ()]
)
SERIAL_QUESTIONS = (0, 1, 0, 1)


def make_loop(
    backbone: Backbone,
    folder: Path,
    batches: list[list[int]],
    *,
    is_rolled_back: bool,
    num_steps: int = 20,
    generates: bool = False,
    records: tuple[EditRecord, ...] = RECORDS,
    questions: tuple[int, ...] | None = None,
    abilities: Abilities | None = None,
    learner_of: Callable[[Make], Learner] = Learner,
    **how: bool,
) -> EditLoop:
    artefacts = Artefacts(folder)
    evaluator = Evaluator(backbone.tokenizer, records)
    pristine = Split(backbone, 0, PrefixCache())
    chosen = evaluator.select()
    grown = evaluator.generations(pristine.logits, chosen) if generates else None
    edits = evaluator.select(scores=["reliability"])
    measured = evaluator.perplexities(pristine.logits, edits) if "has_passages" in how else None
    before = Before(evaluator.answers(pristine.logits, chosen), grown, measured)
    config = Config(
        edit_layer=2,
        loss="target_new",
        edit_lr=0.02,
        num_steps=num_steps,
        stop_loss=0.0,
        norm_bound=None,
        mini_batch_size=None,
    )

    def make() -> EditMethod:
        return FineTuning(config, backbone, artefacts, trial_generators(0))

    return EditLoop(
        backbone.tokenizer,
        evaluator,
        EditStream(batches, questions, {"within_batch_similarity": 0.5}),
        EditProtocol(is_rolled_back, target_ends_with_eos=True, generates=generates, **how),
        before,
        learner=learner_of(make),
        to_edit=to_edit,
        abilities=abilities,
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
    first = loop.run(0.25, RELIABILITY)
    # half of the first of two batches: 10 of its 20 steps
    assert first["progress"] == pytest.approx(0.25)
    assert set(first) == {"progress", "edits_seen", "reliability.token.rung"}
    assert loop.run(0.5, RELIABILITY)["progress"] == pytest.approx(0.5)
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


def serial_loop(backbone: Backbone, folder: Path, **how: Any) -> EditLoop:
    return make_loop(
        backbone,
        folder,
        [[0], [1], [2], [3]],
        is_rolled_back=False,
        records=SERIAL,
        questions=SERIAL_QUESTIONS,
        **how,
    )


def without_times(row: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in row.items() if not k.endswith("seconds")}


def test_serial_is_scored_on_the_newest_answers_alone(llama: Backbone, tmp_path: Path) -> None:
    loop = serial_loop(llama, tmp_path, num_steps=60)
    row = loop.run()
    scores = loop.probe_scores()
    assert {score.record for score in scores["final"]} == {2, 3}
    assert {score.record for score in scores["immediate"]} == {0, 1, 2, 3}
    edits = {s.record: s for s in scores["final"] if s.score == "reliability"}
    assert row["reliability.token.final"] == pytest.approx((edits[2].token + edits[3].token) / 2)
    assert row["edits_seen"] == 4
    # what is asked before the first edit is asked of the same records as at the end
    assert row["locality_far.token.before"] == 1.0
    assert row["within_batch_similarity"] == 0.5  # as the stream says
    # retention: newest answers that are older than the last batch, that is record 2
    assert row["retention.token.final"] == pytest.approx(edits[2].token)
    loop.close()


def test_serial_stale_rate_counts_questions_that_answer_as_before(
    llama: Backbone, tmp_path: Path
) -> None:
    # 60 steps on one old answer, one step that hardly moves the other question's
    loop = make_loop(
        llama,
        tmp_path,
        [[0], [1]],
        is_rolled_back=False,
        num_steps=60,
        records=(SERIAL[0], replace(SERIAL[0], record_id="q0#1", target_new="Oslo Bay Lumen")),
        questions=(0, 0),
    )
    row = loop.run()
    lines = list(loop.record_lines())
    [old] = [line for line in lines if line["when"] == "outdated"]
    # the newest answer begins with the older one, so a model that learned it gives both
    assert old["exact"] == 1.0
    assert row["stale_rate"] == 1.0
    loop.close()
    apart = serial_loop(llama, tmp_path, num_steps=60)
    stale = apart.run()["stale_rate"]
    exact = [line["exact"] for line in apart.record_lines() if line["when"] == "outdated"]
    assert len(exact) == 2
    assert stale == sum(exact) / 2


def test_serial_rung_compares_the_newest_answers_so_far(llama: Backbone, tmp_path: Path) -> None:
    loop = serial_loop(llama, tmp_path)
    row = loop.run(0.75, RELIABILITY)  # after the third of four edits: records 2 and 1 hold
    assert row["edits_seen"] == 3
    chosen = loop._evaluator.select([1, 2], ["reliability"])
    answers = loop._evaluator.answers(loop.method.logits, chosen)
    expected = [score.token for score in loop._evaluator.score(answers, {})]
    assert row["reliability.token.rung"] == pytest.approx(sum(expected) / 2)
    loop.close()


def test_serial_with_curve_stored_and_resumed_then_ends_alike(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    def run(stops_at: float | None) -> tuple[Any, ...]:
        backbone = load_backbone(checkpoints["llama"])
        loop = serial_loop(backbone, tmp_path, has_curve=True)
        if stops_at is not None:
            loop.run(stops_at)
            write_state(tmp_path / "state", loop.state())
            backbone = load_backbone(checkpoints["llama"])
            loop = serial_loop(backbone, tmp_path, has_curve=True)
            state = read_state(tmp_path / "state")
            assert state is not None
            loop.load(state)
        row = without_times(loop.run())
        return row, loop.curve(), list(loop.record_lines())

    assert run(stops_at=0.6) == run(stops_at=None)


def test_curve_scores_every_earlier_batch_after_each_later_one(
    llama: Backbone, tmp_path: Path
) -> None:
    loop = make_loop(llama, tmp_path, [[3, 0], [1]], is_rolled_back=False, has_curve=True)
    row = loop.run()
    points = [line for line in loop.record_lines() if line["when"] == "curve"]
    assert [(p["edits_seen"], p["batch"], p["num_records"]) for p in points] == [
        (2, 0, 2),
        (3, 0, 2),
        (3, 1, 1),
    ]
    scores = loop.probe_scores()
    own = {s.record: s.token for s in scores["immediate"] if s.score == "reliability"}
    assert points[0]["token"] == pytest.approx((own[3] + own[0]) / 2)
    first, last = loop.curve()
    assert (first["edits_seen"], last["edits_seen"]) == (2, 3)
    # (2 records * first batch + 1 record * second batch) / 3: the mean over records
    mean = (2 * points[1]["token"] + points[2]["token"]) / 3
    assert last["reliability.token.curve"] == pytest.approx(mean)
    assert last["reliability.token.curve"] == pytest.approx(row["reliability.token.final"])
    loop.close()


def test_curve_of_a_serial_stream_leaves_out_what_was_overwritten(
    llama: Backbone, tmp_path: Path
) -> None:
    loop = serial_loop(llama, tmp_path, has_curve=True)
    loop.run()
    points = [line for line in loop.record_lines() if line["when"] == "curve"]
    # after edit 3 record 0 is outdated, after edit 4 record 1 too
    assert [(p["edits_seen"], p["batch"]) for p in points] == [
        *[(1, 0), (2, 0), (2, 1)],
        *[(3, 1), (3, 2), (4, 2), (4, 3)],
    ]
    loop.close()


def test_record_lines_tell_the_batch_of_every_record(llama: Backbone, tmp_path: Path) -> None:
    loop = make_loop(llama, tmp_path, [[3], [0, 1]], is_rolled_back=False)
    loop.run()
    batches = {line["record_id"]: line["batch"] for line in loop.record_lines()}
    assert batches == {"r3": 0, "r0": 1, "r1": 1}
    loop.close()


def test_perplexity_of_a_passage_falls_when_it_is_learned(llama: Backbone, tmp_path: Path) -> None:
    loop = make_loop(
        llama, tmp_path, [[0, 1]], is_rolled_back=True, num_steps=60, has_passages=True
    )
    row = loop.run()
    lines = [line for line in loop.record_lines() if line["score"] == "reliability"]
    measured = sorted(line["perplexity"] for line in lines)
    assert row["perplexity.mean.final"] == pytest.approx(sum(measured) / 2)
    assert row["perplexity.median.final"] == pytest.approx(sum(measured) / 2)  # of two: their mean
    assert 1.0 <= row["perplexity.mean.final"] < row["perplexity.mean.before"]
    others = [line for line in loop.record_lines() if line["score"] != "reliability"]
    assert all("perplexity" not in line for line in others)


def test_beginning_a_batch_counts_as_editing_whoever_takes_the_steps(
    llama: Backbone, tmp_path: Path
) -> None:
    loop = make_loop(llama, tmp_path, [[0, 1]], is_rolled_back=False)
    loop.open(1.0)
    tally: Any = loop.state().values["tally"]
    assert tally["seconds"]["edit"] > 0
    loop.close()


def test_edit_state_bytes_are_those_of_the_tensors_kept(llama: Backbone, tmp_path: Path) -> None:
    loop = make_loop(llama, tmp_path, [[0], [1]], is_rolled_back=False)
    row = loop.run()
    kept = snapshot(loop.method.state()).tensors
    assert row["edit_state_bytes"] == sum(t.numel() * t.element_size() for t in kept.values())
    loop.close()


def test_compared_average_leaves_out_scores_without_questions() -> None:
    row = {"reliability.token.final": 0.9, "locality_far.token.final": 0.5}
    three = ("reliability.token", "generality.token", "locality_far.token")
    # no rephrases
    assert compared(row, Compares("average.token", three), "final") == pytest.approx(0.7)
    with pytest.raises(ConfigError, match=r"scheduler.metric is generality.token; the data set"):
        compared(row, Compares("generality.token", ("generality.token",)), "final")
    with pytest.raises(ConfigError, match=r"scheduler.metric is stale_rate; the trial has no such"):
        compared(row, Compares("stale_rate", ("stale_rate",)), "final")
