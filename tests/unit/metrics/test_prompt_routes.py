"""What a trial's row says of its experts: by hand, and with the real methods on a tiny model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.artefacts import Artefacts
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.bases import read_method
from trainables.draws.streams import to_edit
from trainables.edits.stream import EditStream
from trainables.interfaces import Backbone, EditMethod, EditRecord
from trainables.methods import build_config, get_method, method_settings
from trainables.metrics.evaluator import Evaluator
from trainables.metrics.prompt_routes import (
    RouteRow,
    learned,
    num_experts_used,
    route_numbers,
    routing_matrices,
    same_expert_rate,
)
from trainables.seeding import trial_generators
from trainables.trials.learner import Learner
from trainables.trials.loop import EditLoop
from trainables.trials.protocol import Before, EditProtocol

TINY = {"edit_layer": 2, "num_experts": 2, "top_k": 1, "num_steps": 3, "projection_size": 8}

RECORDS = tuple(
    EditRecord(f"r{n}", prompt, target, subject, rephrases=(f"Tell me: {prompt}",))
    for n, (prompt, target, subject) in enumerate(
        [
            ("The capital of Fooland is", "Bar City", "Fooland"),
            ("Where was Ada Quell born?", "Vesper", "Ada Quell"),
            ("Ada Quell works for", "Lumen Works", "Ada Quell"),
            ("Who leads Oslo Bay?", "Ivo Marsh", "Oslo Bay"),
        ]
    )
)


def edit(record: int, *experts: int, part: int = 0) -> RouteRow:
    return RouteRow(record, "reliability", f"p{record}", experts, part=part)


def rephrase(record: int, *experts: int, part: int = 0) -> RouteRow:
    return RouteRow(record, "generality", f"again {record}", experts, part=part)


def test_route_numbers_of_tokens_by_hand() -> None:
    rows = [edit(0, 1, 1, 0), rephrase(0, 1, 0), rephrase(0, 1), edit(1, 0, 0), rephrase(1, 2, 2)]
    numbers = route_numbers(learned(rows, {0: (1, 1, 1), 1: (2, 2)}), groups=[0, 0])
    assert numbers == {
        # record 0: rephrases have 1/2 and 1/1 of expert 1, mean 3/4; record 1: none; mean 3/8
        "routing_consistency": pytest.approx(0.375),
        # both in one group: tokens 1 1 0 0 0, expert 0 takes 3 of 5
        "routing_consistency_similar": pytest.approx(0.6),
        "routing_purity": pytest.approx((2 / 3 + 1) / 2),
        "largest_load": pytest.approx(0.6),
        "own_expert_rate": 0.5,  # record 0 still goes to 1, record 1 went to 2 and goes to 0
    }


def test_route_numbers_keep_batches_that_were_rolled_back_apart() -> None:
    rows = [edit(0, 0), edit(1, 0), edit(2, 0, part=1), edit(3, 1, part=1)]
    numbers = route_numbers(rows, groups=[0, 0, 0, 0])
    # part 0: one expert takes all; part 1: each takes half. Mean (1 + 1/2) / 2
    assert numbers["largest_load"] == 0.75
    assert numbers["routing_consistency_similar"] == 0.75
    assert "own_expert_rate" not in numbers  # nothing is known of where they were learned
    assert "routing_consistency" not in numbers  # no rephrases
    assert route_numbers([], []) == {}


def test_routing_matrices_count_tokens_of_edits_alone() -> None:
    rows = learned([edit(0, 1, 1, 0), rephrase(0, 0), edit(1, 0, part=1)], {0: (1, 1, 1), 1: (0,)})
    first, second = routing_matrices(rows)
    # expert 1 learned three tokens, two come back to it and one goes to 0
    assert first == {
        "part": 0,
        "matrix": [[0.0, 0.0], [pytest.approx(1 / 3), pytest.approx(2 / 3)]],
        "learned": [0, 3],
    }
    assert second == {"part": 1, "matrix": [[1.0]], "learned": [1]}


def test_routing_matrices_when_every_edit_has_an_entry_then_none_is_as_large_as_their_square() -> (
    None
):
    rows = [edit(n, n) for n in range(65)]
    assert routing_matrices(learned(rows, {n: (n,) for n in range(65)})) == []
    (kept,) = routing_matrices(learned(rows[:64], {n: (n,) for n in range(64)}))
    assert len(kept["matrix"]) == 64


def test_same_expert_rate_compares_with_the_edit_of_the_question_before() -> None:
    # question 7: experts 0, 0, 1; question 8: experts 2 (of three tokens), 2. One of three moves.
    trained = [(7, (0,)), (8, (2, 2, 0)), (7, (0,)), (8, (2,)), (7, (1,))]
    assert same_expert_rate(trained) == pytest.approx(2 / 3)
    assert same_expert_rate([(7, (0,)), (8, (0,))]) is None


def run(
    name: str,
    backbone: Backbone,
    folder: Path,
    changes: Mapping[str, Any] | None = None,
    batches: Sequence[Sequence[int]] = ((3, 0), (2, 1)),
    **how: bool,
) -> tuple[EditLoop, dict[str, Any]]:
    values = read_method(name)
    settings = method_settings(values)
    settings.update({key: value for key, value in TINY.items() if key in settings})
    settings.update(changes or {})
    module, artefacts = values.get("module", name), Artefacts(folder)

    def make() -> EditMethod:
        config = build_config(module, settings)
        method: EditMethod = get_method(module)[1](config, backbone, artefacts, trial_generators(0))
        method.prepare(())
        return method

    evaluator = Evaluator(backbone.tokenizer, RECORDS)
    answers = evaluator.answers(Split(backbone, 0, PrefixCache()).logits, evaluator.select())
    loop = EditLoop(
        backbone.tokenizer,
        evaluator,
        EditStream(batches, groups=lambda: [0, 0, 1, 1]),
        EditProtocol(target_ends_with_eos=True, **{"is_rolled_back": False, **how}),
        Before(answers),
        learner=Learner(make),
        to_edit=to_edit,
    )
    return loop, loop.run()


def test_whole_prompts_are_compared_with_what_the_method_says_it_trained(
    llama: Backbone, tmp_path: Path
) -> None:
    loop, row = run("lemoe", llama, tmp_path)
    method: Any = loop.method
    trained = dict(zip([3, 0, 2, 1], method.trained_routes(), strict=True))
    [prompts] = loop._evaluator.prompt_batches(loop._evaluator.select(scores=["reliability"]))
    with torch.no_grad():
        routed = method.routes(prompts).tolist()
    own = [trained[record] == expert for record, expert in enumerate(routed)]
    assert row["own_expert_rate"] == sum(own) / 4
    assert row["routing_purity"] == 1.0  # a prompt goes as a whole
    lines = [line for line in loop.record_lines() if line["when"] == "final"]
    edits = {line["record_id"]: line for line in lines if line["score"] == "reliability"}
    assert [edits[f"r{n}"]["experts"] for n in range(4)] == [(expert,) for expert in routed]
    assert [edits[f"r{n}"]["trained_experts"] for n in range(4)] == [
        (trained[n],) for n in range(4)
    ]
    [matrix] = [line for line in loop.record_lines() if line["when"] == "routing"]
    assert sum(matrix["learned"]) == 4
    loop.close()


def test_memories_that_merged_are_compared_by_what_they_became(
    llama: Backbone, tmp_path: Path
) -> None:
    merging = {"edits_per_memory": 2, "num_memories": 2, "margin_unit": "residual"}
    merging |= {"margin_far": 0.15, "margin_edit": 0.6, "margin_gap": 0.3, "num_prefixes": 1}
    loop, row = run("wise_retrieval", llama, tmp_path, merging, [[3], [0], [2], [1]])
    # Edits 3 and 0 are learned by memory 0, 2 and 1 by memory 1; with the last the two become one.
    lines = [line for line in loop.record_lines() if line["when"] == "final"]
    edits = [line for line in lines if line["score"] == "reliability"]
    assert [line["trained_experts"] for line in edits] == [(0,)] * 4
    assert row["own_expert_rate"] == sum(line["experts"] == (0,) for line in edits) / 4
    assert row["num_experts_used"] == 1.0
    loop.close()


def test_entries_of_a_codebook_are_experts_too(llama: Backbone, tmp_path: Path) -> None:
    loop, row = run("grace", llama, tmp_path, {"deferral_radius": 0.01})
    lines = [line for line in loop.record_lines() if line["when"] == "final"]
    edits = {line["record_id"]: line for line in lines if line["score"] == "reliability"}
    # Learned in the order 3, 0, 2, 1, an entry each, so small that no other prompt falls into it.
    assert [edits[f"r{n}"]["trained_experts"] for n in (3, 0, 2, 1)] == [(0,), (1,), (2,), (3,)]
    assert [edits[f"r{n}"]["experts"] for n in (3, 0, 2, 1)] == [(0,), (1,), (2,), (3,)]
    assert row["own_expert_rate"] == 1.0
    assert row["num_experts_used"] == 4.0
    assert row["routing_consistency"] == 0.0  # its rephrases are answered without the codebook
    loop.close()


def test_an_edit_that_no_expert_holds_is_no_part_of_the_rate() -> None:
    owners = {0: (-1,), 1: (-1,), 2: (0,), 3: (1,)}
    now = {0: (-1,), 1: (0,), 2: (1,), 3: (1,)}
    rows = [RouteRow(n, "reliability", f"prompt {n}", now[n]) for n in owners]
    # Of edits 2 and 3, which an expert holds, the last goes to its own.
    assert route_numbers(learned(rows, owners), [0] * 4)["own_expert_rate"] == 0.5
    nobody = learned(rows[:2], owners)
    assert "own_expert_rate" not in route_numbers(nobody, [0] * 4)


def test_experts_used_are_counted_within_a_part() -> None:
    # Batches that are rolled back: two experts in the first, one in the second.
    trained = {0: (0, 0, 1), 1: (3,), 2: (2,), 3: (2, 2, 0), 4: (-1,)}
    parts = {0: 0, 1: 0, 2: 1, 3: 1, 4: 1}
    assert num_experts_used(trained, parts) == 1.5
    assert num_experts_used(trained, {}) == 3.0
    assert num_experts_used({4: (-1,)}, {}) is None


def test_tokens_are_measured_when_learned_and_again_at_the_end(
    llama: Backbone, tmp_path: Path
) -> None:
    loop, row = run("conventional_moe", llama, tmp_path)
    lines = [line for line in loop.record_lines() if line["when"] == "final"]
    chosen = loop._evaluator.select(scores=["reliability", "generality"])
    for index in chosen:
        probe = loop._evaluator.probes[index]
        [line] = [line for line in lines if line["prompt"] == probe.prompt]
        tokens = len(llama.tokenizer(probe.prompt)["input_ids"])
        assert len(line["experts"]) == tokens
        assert ("trained_experts" in line) == (probe.score == "reliability")
    # the last batch was learned last: nothing has moved it since
    last = [line for line in lines if line["batch"] == 1 and line["score"] == "reliability"]
    assert all(line["trained_experts"] == line["experts"] for line in last)
    assert 0.5 <= row["largest_load"] <= 1.0  # of two experts
    loop.close()


def test_rolled_back_batches_have_a_matrix_each(llama: Backbone, tmp_path: Path) -> None:
    loop, row = run("conventional_moe", llama, tmp_path, is_rolled_back=True)
    parts = [line["part"] for line in loop.record_lines() if line["when"] == "routing"]
    assert parts == [0, 1]
    assert row["own_expert_rate"] == 1.0  # measured twice at the same moment


def test_a_method_without_experts_says_nothing_of_them(llama: Backbone, tmp_path: Path) -> None:
    loop, row = run("no_edit", llama, tmp_path)
    assert not {"own_expert_rate", "largest_load", "routing_consistency"} & set(row)
    assert not [line for line in loop.record_lines() if line["when"] == "routing"]
    loop.close()
