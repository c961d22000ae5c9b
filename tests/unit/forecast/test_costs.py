from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import UsageError
from orchestrator.forecast.costs import num_steps, work, work_once
from orchestrator.forecast.shape import layer_parameters, num_parameters
from orchestrator.forecast.trained_networks import Networks
from orchestrator.forecast.training_costs import KINDS, training_of
from orchestrator.planning.plan import TrialSpec
from orchestrator.settings.yaml_files import SearchSpaces

SMALL = {
    "name": "small",
    "num_layers": 4,
    "hidden_size": 10,
    "ffn_size": 30,
    "vocabulary_size": 100,
    "dtype": "float32",
}


def spec(
    cost: dict[str, Any], method: dict[str, Any] | None = None, num_edits: int = 2, **protocol: Any
) -> TrialSpec:
    kind = {"kind": "batch", "num_edits": num_edits, "num_batches": 1, **protocol}
    settings = {"name": "m", "module": "m", "edit_layer": 2, "num_steps": 5, **(method or {})}
    cost = {"tokens_per_row": 10, "prompts_per_edit": 4, **cost}
    return TrialSpec("a", "b", 0, settings, SMALL, {}, kind, {}, cost=cost)


def test_num_parameters_when_only_the_shape_is_known_then_it_is_counted() -> None:
    shape = {"num_layers": 2, "hidden_size": 4, "ffn_size": 8, "vocabulary_size": 10}
    # 2 x (4 x 16 + 3 x 4 x 8) + 10 x 4 = 2 x 160 + 40
    assert num_parameters({**shape, "family": "llama"}) == 360
    # without a gate: 2 x (64 + 64) + 40
    assert num_parameters({**shape, "family": "gpt2"}) == 296
    assert num_parameters({**shape, "num_parameters": 7}) == 7


def test_work_when_nothing_is_trained_then_every_prompt_is_read_once() -> None:
    # a layer: 4 x 10 x 10 + 2 x 10 x 30 = 1000; 2 edits x 4 prompts x 10 tokens x 2 x 4 x 1000,
    # and 3 target tokens of each prompt x 2 x 100 x 10
    assert layer_parameters(SMALL) == 1000
    found = work(spec({"trains": "nothing"}))
    assert found.operations == 80 * 8000 + 8 * 3 * 2000
    assert (found.layer_calls, found.bytes_moved) == (4, 0)  # 8 prompts are read in one go


def test_work_when_a_weight_is_trained_then_steps_and_the_second_reading_count() -> None:
    found = work(spec({"trains": "weight"}))
    # above: layers 2 and 3, the edited one half: 1.5; trained 300, of which the sixth part in
    # 6 x 100: 20 tokens x (4 x 1.5 x 1000 + 600); head 4 x 3 x 2 rows x 1000
    steps = 5 * (20 * 6600 + 24_000)
    once = 20 * 2 * 2.5 * 1000  # the rows through what lies below
    read = 2 * (80 * 8000 + 8 * 3 * 2000)  # before and after
    assert found.operations == pytest.approx(steps + once + read)
    assert found.steps == 5
    assert found.bytes_moved == 5 * 300 * 60


def test_work_when_a_stream_has_batches_then_steps_repeat_and_the_end_is_read_too() -> None:
    one = work(spec({"trains": "values"}, num_edits=8))
    stream = work(spec({"trains": "values"}, num_edits=8, kind="lifelong", num_batches=4))
    assert stream.steps == 4 * one.steps  # 5 steps of each batch
    read = 8 * 4 * (10 * 8000 + 3 * 2000)
    assert stream.operations - one.operations == pytest.approx(read)


def test_work_when_a_change_reaches_few_tokens_then_a_step_runs_those_alone() -> None:
    method = {"replacement": "replace_last", "edit_layer": 2}
    few, whole = (
        work(spec({"trains": "values"}, method | each))
        for each in ({}, {"replacement": "replace_prompt"})
    )
    # 2 edits of 10 tokens, one layer above: 5 steps without 6 of them, which it passes once
    saved = 2 * 6 * 1000 * (5 * 4 - 2)
    assert whole.operations - few.operations == pytest.approx(saved)


def test_training_when_a_map_is_trained_then_one_token_of_a_row_passes_it() -> None:
    found = training_of(spec({"trains": "map"}))
    assert (found.above, found.trained, found.used) == (1, 340, 34)  # of 10 tokens


ROME = {"v_num_steps": 5, "contexts": 4, "context_lengths": [4, 9], "covariance": "identity"}


def test_work_when_edits_are_made_in_turn_then_each_takes_all_the_steps() -> None:
    one = work(spec({"trains": "vector"}, ROME, num_edits=1))
    eight = work(spec({"trains": "vector"}, ROME, num_edits=8))
    assert (one.steps, eight.steps) == (5, 8 * 5)
    assert eight.bytes_moved == 40 * 10 * 60
    assert eight.operations == pytest.approx(8 * one.operations)  # and no more rows than alone
    stream = work(spec({"trains": "vector"}, ROME, num_edits=8, kind="lifelong", num_batches=4))
    assert stream.steps == eight.steps


def test_training_when_a_vector_is_found_then_its_contexts_and_its_change_count() -> None:
    found = training_of(spec({"trains": "vector"}, ROME))
    # the bare prompt, and four of 10 + (4 + 9) / 2 + 1 tokens; behind layer 2 of 4
    assert (found.rows, found.tokens, found.above) == (5, (10 + 4 * 17.5) / 5, 1)
    # 2 edits: 80 tokens through 3 layers, and 300 numbers that are changed
    keys, written = 2 * 80 * 2 * 3 * 1000, 2 * 2 * 300
    assert found.finish == pytest.approx(keys + written)
    assert found.once == pytest.approx(2 * 4 * 7.5 * 1000)
    moments = training_of(
        spec({"trains": "vector"}, ROME | {"covariance": "text", "covariance_tokens_per_dim": 2})
    )
    # C is factorised, and solved for with each of 2 edits, in float64
    assert moments.finish - found.finish == pytest.approx(2 * (2 / 3 * 30 + 4) * 900)
    # 60 tokens through 3 layers and into the product; the check of C
    assert moments.once - found.once == pytest.approx(60 * 2 * (3000 + 900) + 6 * 27_000)


def test_work_when_a_batch_is_passed_in_mini_batches_then_more_steps_on_the_same_tokens() -> None:
    whole, cut = (
        work(spec({"trains": "weight"}, {"mini_batch_size": size}, num_edits=7))
        for size in (None, 3)
    )
    assert cut.operations == whole.operations
    assert (whole.steps, cut.steps) == (5, 15)  # 3, 3 and 1 of 7 edits
    assert cut.bytes_moved == 3 * whole.bytes_moved


def test_training_when_one_memory_is_written_in_turn_then_each_edit_has_its_steps() -> None:
    method = {"num_prefixes": 3, "num_steps": 5, "edit_layer": 2}
    found = training_of(spec({"trains": "memory"}, method, num_edits=6))
    # the bare prompt and three forms of 10 + 8 tokens; one layer above; 300 numbers
    assert (found.rows, found.tokens) == (4, pytest.approx((10 + 3 * 18) / 4))
    assert (found.above, found.trained, found.is_in_turn) == (1, 300, True)
    one, six = (work(spec({"trains": "memory"}, method, num_edits=n)).steps for n in (1, 6))
    assert (one, six) == (5, 30)


def test_training_when_changes_are_projected_then_products_and_eigenvectors_count() -> None:
    memit = {"layers": [0, 1], "contexts": 0, "covariance_tokens_per_dim": 10}
    plain = training_of(spec({"trains": "vectors"}, memit))
    free = training_of(spec({"trains": "vectors"}, memit | {"null_threshold": 0.02}))
    # of 2 layers in float64: two products of 2 x 30^3 each, and a factor of half the operations
    assert free.finish - plain.finish == pytest.approx(2 * 2 * (4 - 1 / 3) * 27_000)
    assert free.once - plain.once == 2 * 2 * 9 * 27_000


def test_training_when_matrices_are_shifted_then_one_pass_and_their_solutions_count() -> None:
    method = {"layers": [2, 3], "modules": ["gate", "down"], "gate_layers": [1]}
    found = training_of(spec({"trains": "shifts"}, method))
    # three matrices of 300 from layer 1 on: forward and back through 3 of 4 layers
    assert (found.trained, found.above, found.passes) == (900, 3, 1.5)
    # 6 target tokens, in float64: a factor and both products of 6 x 6, and the ways in and out
    assert found.finish == pytest.approx(2 * 3 * ((2 + 12) * 36 + 6 * 4 * 300))
    assert training_of(spec({"trains": "shifts"}, {"layers": [3]})).trained == 300


def test_training_when_a_method_adds_rows_then_they_count() -> None:
    assert training_of(spec({"trains": "memories"}, {"num_prefixes": 10})).rows == 11
    plain = {"num_prefixes": 10, "augmentation": "none"}
    assert training_of(spec({"trains": "memories"}, plain)).rows == 1
    memit = {"layers": [0, 1], "contexts": 5, "context_length": 9, "kl_weight": 0.1}
    found = training_of(spec({"trains": "vectors"}, memit))
    # the bare prompt, its KL row, and five of 10 + 9 + 1 tokens
    assert (found.rows, found.tokens) == (7, pytest.approx((2 * 10 + 5 * 20) / 7))
    assert training_of(spec({"trains": "vectors"}, {**memit, "kl_weight": 0})).rows == 6
    held = {"balance_term": True, "balance_positions": "locality", "num_experts": 2}
    assert training_of(spec({"trains": "experts"}, held)).rows == 2


def test_work_once_when_covariances_are_taken_then_their_tokens_count() -> None:
    memit = {"layers": [0, 1], "contexts": 0, "covariance_tokens_per_dim": 10}
    # 300 tokens x 2 x (2 layers x 1000 + 2 x 30 x 30), and 2 x 6 x 30 x 30 x 30 for the check
    found = work_once(spec({"trains": "vectors"}, memit))
    assert found.operations == 300 * 2 * (2000 + 1800) + 12 * 27_000
    assert work_once(spec({"trains": "weight"})).operations == 0


def test_work_once_when_there_is_no_text_then_the_tokens_that_are_sampled_count() -> None:
    memit = {"layers": [0, 1], "contexts": 0, "covariance_tokens_per_dim": 10}
    told = spec({"trains": "vectors"}, memit)
    own = spec({"trains": "vectors"}, memit | {"covariance_text": None})
    own.backbone["model"] = "embedded:made_here"  # with its training text
    assert work_once(own) == work_once(told)
    own.backbone["model"] = "/a/checkpoint"
    # 300 tokens x 2 x (4 x 1000 + 100 x 10), in 300 / 32 calls of 4 layers
    more = work_once(own).operations - work_once(told).operations
    assert more == 300 * 2 * 5000
    assert work_once(own).layer_calls - work_once(told).layer_calls == 300 / 32 * 4


def test_work_once_when_records_are_ranked_by_the_backbone_then_all_of_them_are_read() -> None:
    plain = spec({"trains": "nothing", "records": 100})
    plain.dataset.update(frequency_band=[0, 0.3], frequency_source="gece")
    # 6 passes x 100 records x 10 tokens x 2 x (4 x 1000 + 100 x 10)
    assert work_once(plain).operations == 6 * 100 * 10 * 2 * 5000
    plain.dataset["frequency_source"] = "known"
    assert work_once(plain).operations == 0


def test_work_once_when_a_gradient_is_averaged_over_training_then_at_most_1000_are_read() -> None:
    few = spec({"trains": "nothing", "records": 100}, {"gece_mean_over": "training"})
    # forward and backward: 3 passes x 100 records x 10 tokens x 2 x (4 x 1000 + 100 x 10)
    assert work_once(few).operations == 3 * 100 * 10 * 2 * 5000
    many = spec({"trains": "nothing", "records": 5000}, {"gece_mean_over": "training"})
    assert work_once(many).operations == 3 * 1000 * 10 * 2 * 5000
    batch = spec({"trains": "nothing", "records": 100}, {"gece_mean_over": "batch"})
    assert work_once(batch).operations == 0


def test_num_steps_when_a_loss_may_end_a_batch_then_a_share_is_expected() -> None:
    assert num_steps(spec({})) == 5
    assert num_steps(spec({}, {"stop_loss": 0.01})) == pytest.approx(3.75)
    assert num_steps(spec({"steps_share": 0.6}, {"stop_loss": 0.01})) == pytest.approx(3)


def test_training_when_a_method_names_no_known_kind_then_it_says_which_there_are() -> None:
    with pytest.raises(UsageError, match=r"method m: cost.trains=magic: allowed: .*experts"):
        training_of(spec({"trains": "magic"}))


@pytest.mark.parametrize("method", SearchSpaces().names("method"))
def test_every_method_says_what_it_trains(method: str) -> None:
    assert SearchSpaces().load("method", method)["cost"]["trains"] in KINDS


MEND: dict[str, Any] = {
    "module": "mend",
    "layers": [2, 3],
    "modules": ["gate", "up", "down"],
    "network_rank": 4,
    "num_blocks": 2,
    "training_steps": 5,
    "edits_at_once": 1,
    "problems_per_step": 3,
}


def test_networks_are_one_for_each_shape_with_a_scale_and_an_offset_for_each_weight() -> None:
    plain = Networks.of(MEND, 10, 30, 2)  # no gate: up and down of two layers
    # 40 numbers of a token; a block: 2 x 4 x 40, a bias, and 2 x 2 scales and offsets of 40 each;
    # two blocks of two networks; 2 rates for each of 4 weights of 300
    assert plain.numbers == 2 * 2 * (320 + 40 + 160) + 2 * 4
    assert (plain.modules, plain.written, plain.largest, plain.joint) == (4, 1200, 300, 40)
    assert plain.passed == 2 * 2 * 4 * 40
    gated = Networks.of(MEND, 10, 30, 3)  # the gate has the shape of up
    assert gated.modules == 6
    assert gated.numbers == plain.numbers + 2 * 2 * 80 + 2 * 2  # of two more weights
    assert Networks.of({**MEND, "network_rank": 99}, 10, 30, 2).passed == 2 * 2 * 40 * 40


def test_work_when_networks_are_trained_then_once_and_an_edit_takes_one_pass() -> None:
    told = spec({"trains": "networks"}, MEND | {"num_steps": 0}, num_edits=2)
    once, longer = (
        work_once(spec({"trains": "networks"}, MEND | {"num_steps": 0, "training_steps": n}))
        for n in (5, 10)
    )
    assert longer.operations == 2 * once.operations
    # 15 problems pass 2 layers: forward and back for three kinds of rows, and one more reading
    assert once.layer_calls == 15 * 7 * 2
    found = work(told)
    read = 2 * (80 * 8000 + 8 * 3 * 2000)  # before and after
    # 10 tokens through 2 layers to and fro, and through the networks of 4 weights
    edits = 2 * (10 * 4 * 2 * 1000 + 10 * 4 * 2 * 640)
    below = 20 * 2 * 2 * 1000
    assert found.operations == pytest.approx(read + edits + below)
    assert found.steps == 0
