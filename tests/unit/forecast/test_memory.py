from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.forecast.held import HELD
from orchestrator.forecast.memory import PROCESS_GIB, Memory, Stage, memory
from orchestrator.forecast.shape import GIB, Shape
from orchestrator.forecast.training_costs import KINDS
from orchestrator.planning.plan import TrialSpec, expand
from orchestrator.settings import loading as config
from tests.unit.forecast.test_costs import SMALL, spec

WEIGHTS = 5000 * 4  # 4 layers x 1000 + 100 x 10, of 4 bytes
PREFIXES = 2 * 8 * 10 * 10 * 4  # two for each of 2 x 4 prompts of 10 tokens and width 10


def stage(found: Memory, name: str) -> Stage:
    (one,) = (each for each in found.stages if each.name == name)
    return one


def own_bytes(gib: float) -> float:
    """Beside process, weights and kept states."""
    return (gib - PROCESS_GIB) * GIB - WEIGHTS - PREFIXES


def test_memory_when_experts_are_trained_then_weights_optimiser_and_rows_count() -> None:
    found = memory(spec({"trains": "experts"}, {"num_experts": 3, "top_k": 1}))
    step = stage(found, "step")
    # 3 x 2 x 300 = 1800 trained numbers with two moments and a gradient: 4 x 4 bytes each
    experts = 1800 * 16
    # of 20 tokens: 6 x 600 / 10 bytes of the one expert in use, 4 x 10 numbers of 4 + 4 bytes
    rows = 20 * (360 + 320)
    assert own_bytes(step.fixed_gib) == pytest.approx(experts + rows)
    # a row: one layer above, 10 tokens x (8 x 10 + 2 x 30) x 4 bytes; 3 x 100 logits of 16 bytes
    assert step.row_gib * GIB == pytest.approx(10 * 140 * 4 + 300 * 16)
    assert step.rows == 2
    # AdamW makes one more number for each, when no activation is left
    assert own_bytes(stage(found, "update").fixed_gib) == pytest.approx(1800 * 20 + rows)
    # weights and moments
    assert found.checkpoint_gib * GIB == 1800 * 12


def test_memory_when_the_router_has_squares_then_they_are_trained_like_experts() -> None:
    plain, squares = (memory(spec({"trains": "experts", "squares": n})) for n in (0, 6))
    assert (squares.checkpoint_gib - plain.checkpoint_gib) * GIB == pytest.approx(6 * 100 * 12)


def test_memory_when_banks_are_added_then_the_frozen_ones_stay() -> None:
    stream = {"kind": "lifelong", "num_edits": 8, "num_batches": 4}
    fixed = memory(spec({"trains": "experts"}, {"num_experts": 1}, **stream))
    grown = memory(spec({"trains": "experts", "grows": True}, {"num_experts": 1}, **stream))
    for name in ("step", "read"):
        more = stage(grown, name).fixed_gib - stage(fixed, name).fixed_gib
        assert more * GIB == pytest.approx(3 * 600 * 4)
    assert (grown.checkpoint_gib - fixed.checkpoint_gib) * GIB == pytest.approx(3 * 600 * 4)


def test_memory_when_a_batch_has_fewer_edits_than_experts_then_they_are_not_added() -> None:
    few = memory(spec({"trains": "experts", "grows": True}, {"num_experts": 9}))
    assert few.checkpoint_gib * GIB == 2 * 600 * 12  # two edits


def test_memory_when_adapters_are_trained_then_two_maps_a_layer_and_their_inputs_count() -> None:
    found = memory(spec({"trains": "adapters"}, {"lora_rank": 2, "dropout": 0.1}))
    # 4 layers x 2 maps x rank 2 x (10 + 10) = 320 numbers; of 20 tokens what enters and leaves
    step = stage(found, "step")
    assert own_bytes(step.fixed_gib) == pytest.approx(320 * 16 + 20 * 2 * 10 * 4)
    # a row: four layers, see above, and the inputs of 8 maps of width 10, before and behind dropout
    assert step.row_gib * GIB == pytest.approx(10 * (4 * 140 * 4 + 2 * 80 * 4) + 300 * 16)
    assert found.checkpoint_gib * GIB == 320 * 12
    # of the FFN two maps between 10 and 30
    ffn = memory(spec({"trains": "adapters"}, {"lora_rank": 2, "modules": "ffn"}))
    assert ffn.checkpoint_gib * GIB == 4 * 2 * 2 * 40 * 12
    stream = {"kind": "lifelong", "num_edits": 8, "num_batches": 4}
    grown = {"lora_rank": 2, "adapter": "one_per_batch"}
    assert memory(spec({"trains": "adapters"}, grown, **stream)).checkpoint_gib * GIB == (
        320 * 12 + 3 * 320 * 4
    )


def test_memory_when_a_map_is_trained_then_it_and_its_gate_count() -> None:
    found = memory(spec({"trains": "map"}))
    # 300 of the map, 30 of the gate, 10 beside: their moments and a gradient; of 20 tokens the
    # layer's output, the projection's, their sum in 4 bytes, and two numbers in float32
    step = stage(found, "step")
    assert own_bytes(step.fixed_gib) == pytest.approx(340 * 16 + 20 * 10 * 20)
    assert step.row_gib * GIB == pytest.approx(10 * 140 * 4 + 300 * 16)  # one layer above
    assert found.checkpoint_gib * GIB == 340 * 12


def test_memory_when_a_penalty_holds_the_weight_then_its_importance_and_anchor_count() -> None:
    stream = {"kind": "lifelong", "num_edits": 8, "num_batches": 4}
    held = {"penalty_weight": 0.1}
    free, bound = (memory(spec({"trains": "weight"}, each, **stream)) for each in ({}, held))
    more = stage(bound, "step").fixed_gib - stage(free, "step").fixed_gib
    # two tensors of 300 numbers, and three on the way back
    assert more * GIB == pytest.approx(5 * 300 * 4)
    assert (bound.checkpoint_gib - free.checkpoint_gib) * GIB == pytest.approx(2 * 300 * 4)
    # rolled back after each batch there is never an edit to protect
    assert memory(spec({"trains": "weight"}, held)) == memory(spec({"trains": "weight"}))


def test_memory_when_the_weight_is_narrow_then_a_float32_copy_is_trained() -> None:
    wide = spec({"trains": "weight"})
    narrow = replace(wide, backbone={**SMALL, "dtype": "bfloat16"})
    # 300 numbers: the kept value; two moments; the gradient
    held = {"float32": 300 * (4 + 8 + 4), "bfloat16": 300 * (2 + 4 + 8 + 4 + 2)}
    for trial, size in ((wide, 4), (narrow, 2)):
        found = stage(memory(trial), "step").fixed_gib
        rest = (WEIGHTS + PREFIXES) / 4 * size + 20 * 2 * 10 * size
        assert (found - PROCESS_GIB) * GIB == pytest.approx(held[trial.backbone["dtype"]] + rest)
    assert memory(narrow).checkpoint_gib * GIB == 300 * 12


def test_memory_when_side_memories_are_trained_then_masks_and_copies_count() -> None:
    found = memory(spec({"trains": "memories"}, {"num_experts": 3, "merging": "emr"}))
    # three deltas of 300 numbers with a byte of mask; copies of the two that two edits train
    assert found.checkpoint_gib * GIB == 300 * (3 * 5 + 2 * 4)


def test_memory_when_vectors_are_solved_for_then_squares_of_the_ffn_count_once() -> None:
    memit = {"layers": [0, 1], "contexts": 0, "kl_weight": 0, "covariance_tokens_per_dim": 10}
    found = memory(spec({"trains": "vectors"}, memit))
    kept = 2 * 300 * 4  # what is written is kept
    # C of two layers in float64 and float32, and three float64 matrices of its check
    assert stage(found, "prepare").fixed_gib * GIB == pytest.approx(
        PROCESS_GIB * GIB + WEIGHTS + kept + 900 * (2 * 12 + 3 * 8)
    )
    # five float64 matrices of one layer's solution; the states of 20 tokens
    states = 20 * 10 * 4
    assert own_bytes(stage(found, "write").fixed_gib) == pytest.approx(kept + 900 * 40 + states)
    assert found.once_gib == stage(found, "prepare").fixed_gib
    stream = {"kind": "lifelong", "num_edits": 4, "num_batches": 2}
    each = ({}, {"accumulate_keys": True})
    plain, keeping = (memory(spec({"trains": "vectors"}, memit | own, **stream)) for own in each)
    assert (keeping.checkpoint_gib - plain.checkpoint_gib) * GIB == pytest.approx(2 * 900 * 8)
    # in a single batch they come while it is written: those of both layers, and of one twice
    alone = memory(spec({"trains": "vectors"}, {**memit, "accumulate_keys": True}))
    assert alone.checkpoint_gib == found.checkpoint_gib
    more = stage(alone, "write").fixed_gib - stage(found, "write").fixed_gib
    assert more * GIB == pytest.approx(900 * 8 * (2 + 2))


def test_memory_when_hook_layers_are_written_then_they_stay_in_a_stream() -> None:
    settings = {"layers": [1, 2], "contexts": 0}
    batches = {"kind": "batch", "num_edits": 2, "num_batches": 4}  # each rolled back
    stream = {"kind": "lifelong", "num_edits": 8, "num_batches": 4}
    cost = {"trains": "hooks"}
    alone, going = (memory(spec(cost, settings, **each)) for each in (batches, stream))
    hooks = 2 * (4 * 300 + 8 * 900)  # of two layers a change in float32, F x F in float64
    vectors = 12 * 2 * 10  # of two edits, with two moments
    assert (alone.checkpoint_gib * GIB, going.checkpoint_gib * GIB) == (vectors, vectors + hooks)
    more = stage(going, "step").fixed_gib - stage(alone, "step").fixed_gib
    assert more * GIB == pytest.approx(hooks)
    # while they are written they are there in either
    assert stage(going, "write").fixed_gib == pytest.approx(stage(alone, "write").fixed_gib)


def test_memory_when_a_batch_is_passed_in_mini_batches_then_the_rows_of_one_run() -> None:
    found = memory(spec({"trains": "weight"}, {"mini_batch_size": 3}, num_edits=6))
    assert stage(found, "step").rows == 3


def test_memory_when_one_memory_is_written_in_turn_then_a_mask_for_each_edit_counts() -> None:
    found = memory(spec({"trains": "memory"}, {"num_prefixes": 3}, num_edits=6))
    # 300 numbers, and a byte for each of 30 columns of 6 edits
    assert found.checkpoint_gib * GIB == pytest.approx(300 * 4 + 6 * 30)
    assert stage(found, "step").rows == 4  # of one edit


def test_memory_when_memories_are_written_side_by_side_then_the_columns_of_each_edit_count() -> (
    None
):
    cost = {"trains": "memory", "side_by_side": True}
    method = {"num_prefixes": 3, "active_share": 0.5}
    found = memory(spec(cost, method, kind="single", num_edits=6))
    assert found.checkpoint_gib * GIB == pytest.approx(300 * 4 + 6 * 150 * 4 + 6 * 30)
    assert stage(found, "step").rows == 6 * 4


def test_memory_when_matrices_are_shifted_then_copies_and_their_changes_count() -> None:
    method = {"layers": [2, 3], "modules": ["up", "down"], "normalised_over": "module"}
    found = memory(spec({"trains": "shifts"}, method))
    # four matrices of 300, and two float64 numbers for each of 40 coordinates of each
    statistics = 4 * 2 * 8 * 40
    assert found.checkpoint_gib * GIB == pytest.approx(4 * 300 * 4 + statistics)
    kept, rows = 4 * 300 * 4 + statistics, 20 * 2 * 10 * 4
    assert own_bytes(stage(found, "step").fixed_gib) == pytest.approx(kept + rows)
    # three changes in float64, two squares of 6 tokens; factors of all matrices, and of one thrice
    write = 8 * (3 * 300 + 2 * 36) + 6 * 40 * (4 * 4 + 24)
    assert own_bytes(stage(found, "write").fixed_gib) == pytest.approx(kept + write)


def test_memory_when_edits_are_made_in_turn_then_the_rows_of_one_run() -> None:
    rome = {"contexts": 4, "context_lengths": [4, 9], "covariance": "identity"}
    found = memory(spec({"trains": "vector"}, rome, num_edits=8))
    assert stage(found, "step").rows == 5
    assert found.checkpoint_gib * GIB == 4 * 300 + 12 * 10  # the weight, and one vector
    with_text = memory(spec({"trains": "vector"}, rome | {"covariance": "text"}, num_edits=8))
    more = stage(with_text, "step").fixed_gib - stage(found, "step").fixed_gib
    assert more * GIB == pytest.approx(8 * 900)  # the factors of C in float64


def test_memory_when_the_dtype_is_halved_then_the_weights_are() -> None:
    wide = Shape.of_backbone({**SMALL, "num_parameters": GIB})
    half = Shape.of_backbone({**SMALL, "num_parameters": GIB, "dtype": "bfloat16"})
    assert (wide.weights_gib, half.weights_gib) == (4.0, 2.0)


def test_memory_when_the_backbone_states_it_then_that() -> None:
    stated = replace(spec({"trains": "weight"}), backbone={**SMALL, "memory_gib": 3.5})
    found = memory(stated)
    assert (found.peak_gib, found.least_gib, found.step_gib) == (3.5, 3.5, 3.5)
    assert found.checkpoint_gib * GIB == 300 * 12


def test_every_kind_says_what_it_holds() -> None:
    assert HELD.keys() == KINDS.keys()


@given(st.floats(0.1, 90.0))
def test_rows_within_is_the_most_that_fit(gib: float) -> None:
    found = Memory((Stage("step", 2.0, 0.5, 100), Stage("update", 3.0), Stage("read", 1.0, 2, 20)))
    rows = found.rows_within(gib)
    assert rows <= found.rows == 100
    if rows > 0:
        assert found.with_rows(rows) <= gib + 1e-9
        assert rows == 100 or found.with_rows(rows + 1e-3) > gib
    else:
        assert found.with_rows(0) >= gib


# GiB of a GPU: matrices measured on an exact sixty-fourth of LLaMA2-7B in bfloat16 and multiplied,
# weights of 12.55 and a context of .6 added; 30 edits of 20 tokens. At layer 18 what edits one
# layer, WISE and ARM at 27, MEMIT 4 to 8. Those of MEMIT are stages of one trial.
LARGE: dict[str, tuple[list[str], dict[str, float]]] = {
    "no_edit": ([], {"peak": 13.5}),
    "grace": (["method.edit_layer=18"], {"peak": 13.5}),
    "ft_m": (["method.edit_layer=18"], {"peak": 14.7}),
    "lemoe": (["method.edit_layer=18"], {"peak": 16.0}),
    "lemoe_lora": (["method.edit_layer=18", "method.lora_rank=2048"], {"peak": 16.0}),
    "dense_adapter": (["method.edit_layer=18"], {"peak": 22.7}),  # there LEMoE with five experts
    "memoe_v1": (["method.edit_layer=18"], {"peak": 21.2}),
    "memoe_v2": (["method.edit_layer=18"], {"peak": 25.1}),
    "wise_merge": ([], {"peak": 21.5}),
    "arm": ([], {"peak": 24.0}),
    # A step was 32 with all 210 rows at a time; they run in parts since.
    "memit": ([], {"prepare": 23.0, "write": 20.0}),
    # with keys kept 25 where a layer is written
    "memit, keys kept": (["method.accumulate_keys=true"], {"write": 25.0}),
}


def large(*typed: str, num_edits: int = 30) -> TrialSpec:
    many = ["backbone=llama2_7b", f"protocol.num_edits={num_edits}", "seeds=[0]"]
    (trial,) = expand(config.load(["ablation=smoke", *many, *typed])).trials
    trial.cost["tokens_per_row"] = 20
    return trial


@pytest.mark.parametrize("name", LARGE)
def test_memory_when_the_backbone_is_large_then_it_is_near_what_was_measured(name: str) -> None:
    typed, expected = LARGE[name]
    found = memory(large(f"method={name.partition(',')[0]}", *typed))
    for part, gib in expected.items():
        declared = found.peak_gib if part == "peak" else stage(found, part).gib()
        assert 1 / 1.3 < declared / gib < 1.3, f"{part}: {declared:.1f}, measured {gib}"


def thousand_edits(tmp_path: Path) -> Memory:
    """MEMIT over 1,000 edits in one batch: 7,000 rows, of which 18 edits' run at a time."""
    facts = tmp_path / "zsre.json"
    facts.write_text("[]")
    typed = ["dataset=zsre", f"dataset.path={facts}", "dataset.part=all", "method=memit"]
    return memory(large(*typed, num_edits=1000))


def test_memory_when_memit_edits_a_thousand_at_once_then_it_is_that_of_a_few(
    tmp_path: Path,
) -> None:
    found = thousand_edits(tmp_path)
    # 126 rows of 31 tokens, 23 layers, 65,792 numbers of 2 bytes: 11 GiB, beside 16 that stay;
    # all 7,000 rows would take 610
    assert stage(found, "step").rows == 126
    assert 25 < found.peak_gib < 29
    # one row at a time: before its head was cut 36 GiB of which 18 were logits; now what is made
    # once is the most, five layers of 84 x 11,008^2 / 5 bytes: 9.5 GiB beside the weights
    assert found.least_gib == found.once_gib
    assert 22 < found.least_gib < 26


def test_memory_when_records_are_ranked_by_gece_then_their_number_hardly_matters() -> None:
    typed: dict[str, Any] = {"frequency_band": [0, 0.3], "frequency_source": "gece"}
    trial = large("method=no_edit")
    trial.dataset.update(typed)
    gib = {}
    for records in (1000, 19_000):
        trial.cost["records"] = records
        gib[records] = stage(memory(trial), "rank")
    # at most 2 GiB of states are kept, and 64 records run at a time; without streams it was 56
    assert gib[19_000].gib() - gib[1000].gib() < 2.1
    assert gib[19_000].gib() < 20
    assert gib[19_000].gib(1) < 16
    trial.dataset["frequency_source"] = "known"
    assert memory(trial).once_gib == 0


def test_memory_of_a_checkpoint_is_what_is_trained_with_its_moments() -> None:
    # 5 layers of 4096 x 11,008 numbers in float32, and 30 vectors with theirs
    found = memory(large("method=memit")).checkpoint_gib * GIB
    assert found == pytest.approx(5 * 4096 * 11_008 * 4 + 30 * 4096 * 12)
    # five experts of two matrices each, 6.5 squares of the router
    found = memory(large("method=memoe_v2")).checkpoint_gib * GIB
    assert found == pytest.approx((10 * 4096 * 11_008 + 6.5 * 4096**2) * 12)
    assert math.isclose(memory(large("method=no_edit")).checkpoint_gib, 0.0)
