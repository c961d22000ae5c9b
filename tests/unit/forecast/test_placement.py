from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import UsageError
from orchestrator.forecast.memory import PROCESS_GIB, Memory, Stage
from orchestrator.forecast.placement import (
    Placement,
    Sharing,
    at_a_time,
    attainable,
    beside_gib,
    placement,
    placement_lines,
    preflight,
    resources,
    rows_at_a_time,
    rows_within,
    widest,
)
from orchestrator.planning.plan import TrialSpec
from tests.unit.forecast.test_costs import spec as memory_spec
from trainables.parallel.gpu_memory import CONTEXT_BYTES


def spec(**backbone: object) -> TrialSpec:
    return TrialSpec("a", "b", 0, {}, {"name": "x", "dtype": "float32", **backbone}, {}, {}, {})


def test_resources_when_a_backbone_is_small_then_it_shares_or_leaves_the_gpu() -> None:
    with_gpu = {"CPU": 8.0, "GPU": 1.0}
    assert resources(spec(memory_gib=0.4), with_gpu) == {"cpu": 1.0, "gpu": 0.0}
    assert resources(spec(memory_gib=2.0), {"CPU": 8.0}) == {"cpu": 1.0, "gpu": 0.0}
    # three on 24 GiB, of which the driver of a card leaves .98
    assert resources(spec(memory_gib=7.8), with_gpu)["gpu"] == 0.3333
    assert resources(spec(memory_gib=7.9), with_gpu)["gpu"] == 0.5
    assert resources(spec(memory_gib=15.0))["gpu"] == 1.0
    assert resources(spec(memory_gib=15.0), gpu_gib=80.0)["gpu"] == 0.2  # five on 80 GiB
    # 60 - .6 over GPUs of .98 x 24 - .6: 2.6; each has a context of its own
    assert resources(spec(memory_gib=60.0))["gpu"] == 3.0


def test_resources_when_a_half_precision_file_is_run_in_float32_then_that_counts() -> None:
    seven = {"num_layers": 32, "hidden_size": 4096, "ffn_size": 11008, "family": "llama"}
    protocol = {"kind": "batch", "num_edits": 30}

    def gpus(dtype: str) -> float:
        backbone = {**seven, "name": "x", "num_parameters": 6_738_415_616, "dtype": dtype}
        found = TrialSpec("a", "b", 0, {}, backbone, {}, protocol, {}, cost={"trains": "nothing"})
        return resources(found)["gpu"]

    assert gpus("float16") == 1.0  # 12.6 GiB and the process
    assert gpus("float32") == 2.0  # 25.1 GiB, whatever the file holds


def test_resources_when_only_the_rows_are_too_many_then_one_gpu_does() -> None:
    """As long as a few fit there."""
    seven = {"num_layers": 32, "hidden_size": 4096, "ffn_size": 11008, "family": "llama"}
    backbone = {**seven, "name": "x", "num_parameters": 6_738_415_616, "dtype": "bfloat16"}
    method = {"edit_layer": 0, "num_steps": 1}

    def gpus(num_edits: int) -> float:
        protocol = {"kind": "batch", "num_edits": num_edits}
        cost = {"trains": "weight"}
        return resources(TrialSpec("a", "b", 0, method, backbone, {}, protocol, {}, cost=cost))[
            "gpu"
        ]

    # 31 layers x 15 tokens x (8 x 4096 + 3 x 11008) x 2 bytes are .057 GiB an edit
    assert gpus(200) == 1.0  # 11.6 GiB beside about 14
    # what enters the layer, 2 x 15 x 4096 x 2 bytes an edit, is there however few rows run:
    # 4.6 GiB of 20,000 edits, 46 of 200,000
    assert gpus(20_000) == 1.0
    assert gpus(200_000) == 3.0  # about 62 GiB


def test_placement_when_nothing_is_asked_for_then_layers_are_spread_only_where_needed() -> None:
    with_gpu = {"CPU": 8.0, "GPU": 4.0}
    assert placement(spec(memory_gib=60.0), with_gpu) == Placement("shard", 1.0, 3.0)
    assert placement(spec(memory_gib=60.0), with_gpu, Sharing(gpu_gib=80.0)).parallel == "none"
    assert placement(spec(memory_gib=7.8), with_gpu) == Placement("none", 1.0, 0.3333)
    # all layers on one GPU, as typed: who says so knows the card
    assert placement(spec(memory_gib=60.0), with_gpu, Sharing("none")) == Placement(
        "none", 1.0, 1.0
    )
    assert placement(spec(memory_gib=60.0), with_gpu, Sharing("shard", 4)).gpus == 4.0


def test_placement_when_rows_are_divided_then_each_process_has_a_bundle_and_a_gpu() -> None:
    with_gpu = {"CPU": 8.0, "GPU": 4.0}
    found = placement(spec(memory_gib=8.0), with_gpu, Sharing("data", 4))
    assert found == Placement("data", 1.0, 1.0, 4)
    assert (found.cpus, found.gpus) == (4.0, 4.0)
    # a small backbone stays on CPUs, two processes by default
    assert placement(spec(memory_gib=0.4), with_gpu, Sharing("data")) == Placement("data", 1, 0, 2)
    with pytest.raises(UsageError, match=r"needs 60.0 GiB in each process, a GPU has 24 GiB"):
        placement(spec(memory_gib=60.0), with_gpu, Sharing("data"))


def test_placement_when_a_number_of_gpus_serves_nothing_then_it_is_refused() -> None:
    with pytest.raises(UsageError, match="gpus_per_trial=2: needs parallel=shard or parallel=data"):
        placement(spec(memory_gib=8.0), None, Sharing(gpus_per_trial=2))


def test_placement_lines_name_the_backbones_that_take_more_than_one_gpu() -> None:
    specs = [spec(name="big", memory_gib=60.0), spec(name="small", memory_gib=1.0)]
    assert placement_lines(specs, Sharing()) == [
        "parallel=shard, big: the layers of a trial over 3 GPUs (60.0 GiB, a GPU has 24 GiB)"
    ]
    assert placement_lines(specs[1:], Sharing("data", 3)) == [
        "parallel=data, small: the rows of a trial over 3 CPUs"
    ]


def test_rows_within_when_too_few_fit_then_a_gpu_is_too_small() -> None:
    need = Memory((Stage("step", 10.0, 0.5, 100), Stage("update", 12.0)))
    assert rows_within(need, 60.0) is None  # all of them
    assert rows_within(need, 59.0) == 98
    assert rows_within(need, 14.0) == 8
    assert rows_within(need, 13.9) == 0  # seven of a hundred
    assert rows_within(need, 11.9) == 0  # no number of rows helps
    few = Memory((Stage("step", 10.0, 2.0, 3),))
    assert (rows_within(few, 14.5), rows_within(few, 12.5)) == (2, 0)  # half of three, or less


def test_rows_at_a_time_when_a_part_of_a_gpu_is_too_small_for_all_then_as_many_as_fit() -> None:
    seven = {"num_layers": 32, "hidden_size": 4096, "ffn_size": 11008, "family": "llama"}
    backbone = {**seven, "name": "x", "num_parameters": 6_738_415_616, "dtype": "bfloat16"}
    method = {"name": "m", "edit_layer": 0, "num_steps": 1}

    def trial(num_edits: int) -> TrialSpec:
        protocol = {"kind": "batch", "num_edits": num_edits}
        cost = {"trains": "weight"}
        return TrialSpec("a", "b", 0, method, backbone, {}, protocol, {}, cost=cost)

    whole = Placement("none", 1.0, 1.0)
    found = rows_at_a_time([trial(200), trial(20)], whole)[("x", "m")]
    # .98 x 24 GiB without about 14.3 of process, weights and Adam, .057 GiB a row
    assert 150 < found < 170
    assert rows_at_a_time([trial(20)], whole) == {}
    assert rows_at_a_time([trial(200)], whole, Sharing(gpu_gib=80.0)) == {}
    assert rows_at_a_time([trial(200)], Placement("none", 1.0, 0.0)) == {}
    assert rows_at_a_time([trial(200)], Placement("data", 1.0, 1.0, 2)) == {}
    # half of an 80 GiB card is enough for fewer of 2,000
    half = Placement("none", 1.0, 0.5)
    more = rows_at_a_time([trial(2000)], half, Sharing(gpu_gib=80.0))[("x", "m")]
    assert found < more < 500


def test_widest_is_enough_for_each() -> None:
    assert widest([Placement("none", 1.0, 0.5), Placement("shard", 2.0, 3.0)]) == Placement(
        "shard", 2.0, 3.0
    )


def test_preflight_when_no_node_has_the_gpus_of_one_trial_then_it_says_so() -> None:
    big = spec(name="big", memory_gib=60.0)
    with pytest.raises(UsageError, match=r"big needs 1 CPU and 3 GPU on one node .* 2 GPU"):
        preflight(big, {"CPU": 64, "GPU": 8}, nodes=[{"CPU": 8, "GPU": 2}])
    preflight(big, {"CPU": 64, "GPU": 8}, nodes=[{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 4}])


@given(st.floats(0.6, 24.0), st.floats(24.0, 200.0))
def test_resources_when_trials_share_a_gpu_then_their_memory_fits(need: float, gpu: float) -> None:
    share = resources(spec(memory_gib=need), {"CPU": 1, "GPU": 1}, gpu)["gpu"]
    trials = int(1 / share)  # as many as Ray puts there
    assert trials == min(50, int(0.98 * gpu / need))
    if trials:
        # of what a card of 24 GiB has, 23.69, torch's allocator gets its share without a context
        allowed = min(share, 1.0) * gpu * 23.69 / 24 - CONTEXT_BYTES / 2**30
        assert allowed >= need - PROCESS_GIB


def test_preflight_when_the_cluster_can_never_run_it_then_it_says_need_and_supply() -> None:
    big = spec(name="big", memory_gib=60.0)
    with pytest.raises(
        UsageError, match=r"backbone=big needs 3 GPU .*\(60.0 GiB\); the cluster has 2 GPU"
    ):
        preflight(big, {"CPU": 64, "GPU": 2})
    with pytest.raises(UsageError, match="has 0 GPU"):
        preflight(big, {"CPU": 64})
    with pytest.raises(UsageError, match=r"needs 1 CPU per trial .* has 0.5 CPU"):
        preflight(spec(memory_gib=1.0), {"CPU": 0.5})
    with pytest.raises(
        UsageError, match=r"needs 3.0 GiB of memory per trial; the cluster has 2.0 GiB"
    ):
        preflight(spec(memory_gib=3.0), {"CPU": 2, "memory": 2 * 2**30})


def test_preflight_when_it_fits_then_nothing_is_raised() -> None:
    preflight(spec(memory_gib=60.0), {"CPU": 1, "GPU": 3})
    preflight(spec(memory_gib=3.0), {"CPU": 1, "memory": 4 * 2**30})


HEAD = {"CPU": 0.0, "memory": 8.0 * 2**30}
SCALING = {
    "head_node_type": "head",
    "max_workers": 5,
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "spot": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 4},
        "large": {"resources": {"CPU": 32, "GPU": 4}, "max_workers": 2},
        "off": {"resources": {"CPU": 99, "GPU": 99}, "max_workers": 0},
    },
}


def test_attainable_when_workers_may_be_added_then_as_many_as_the_whole_cluster_may_have() -> None:
    supply = attainable([HEAD], SCALING)
    # of at most five workers two are large and three are spot: 2 x 32 + 3 x 8, 2 x 4 + 3 x 1
    assert supply.total == {"CPU": 88.0, "GPU": 11.0, "memory": 8.0 * 2**30}
    assert supply.nodes == (HEAD, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 32.0, "GPU": 4.0})
    # a type without a limit of its own takes the cluster's: 5 x 8
    spot = {"head_node_type": "head", "max_workers": 5}
    free = {**spot, "available_node_types": {"spot": {"resources": {"CPU": 8}}}}
    assert attainable([HEAD], free).total["CPU"] == 40.0


def test_attainable_when_workers_are_there_then_they_are_not_counted_twice() -> None:
    worker = {"CPU": 8.0, "GPU": 1.0}
    assert attainable([HEAD, worker], SCALING).total["GPU"] == 11.0
    larger = {"CPU": 200.0, "GPU": 20.0}  # of a type that may no longer be added
    assert attainable([HEAD, larger], SCALING).total["GPU"] == 20.0


@pytest.mark.parametrize("scaling", [{}, {"available_node_types": None}, {"max_workers": 3}])
def test_attainable_when_nothing_may_be_added_then_what_is_there(
    scaling: dict[str, object],
) -> None:
    supply = attainable([HEAD, {"CPU": 2.0}], scaling)
    assert supply.total == {"CPU": 2.0, "memory": 8.0 * 2**30}
    assert supply.nodes == (HEAD, {"CPU": 2.0})


def test_preflight_when_the_autoscaler_may_add_a_node_then_it_passes() -> None:
    supply = attainable([HEAD], SCALING)
    preflight(spec(memory_gib=60.0), supply.total, nodes=supply.nodes)  # 3 GPUs on a large one
    preflight(spec(memory_gib=0.1), supply.total, nodes=supply.nodes)
    with pytest.raises(UsageError, match=r"needs 3 GPU per trial .*; the cluster has 0 GPU"):
        preflight(spec(memory_gib=60.0), {"CPU": 8.0})


def test_preflight_when_no_single_node_may_hold_it_then_it_says_what_nodes_there_may_be() -> None:
    supply = attainable([HEAD], SCALING)  # 11 GPUs in all, but at most 4 of them together
    with pytest.raises(
        UsageError,
        match=r"backbone=x needs 1 CPU and 5 GPU on one node .*the nodes .* have "
        r"0 CPU and 0 GPU; 32 CPU and 4 GPU; 8 CPU and 1 GPU",
    ):
        preflight(spec(memory_gib=110.0), supply.total, nodes=supply.nodes)
    with pytest.raises(UsageError, match=r"needs 13 GPU per trial .*; the cluster has 11 GPU"):
        preflight(spec(memory_gib=290.0), supply.total, nodes=supply.nodes)


@pytest.mark.parametrize(
    ("memory_gib", "expected"),
    [(1.0, 8), (3.0, 3), (20.0, 1), (None, 8)],  # 8 CPUs; 10 / 3 = 3.3; one runs in any case
)
def test_at_a_time_when_memory_is_short_then_it_decides(
    memory_gib: float | None, expected: int
) -> None:
    there = {"CPU": 8.0, "memory": 10.0 * 2**30}
    if memory_gib is None:  # of a cluster that does not say how much it has
        memory_gib = 3.0
        del there["memory"]
    need = Placement("none", 1.0, 0.0)
    assert at_a_time(need, [spec(memory_gib=0.5), spec(memory_gib=memory_gib)], there) == expected
    on_gpu = Placement("none", 1.0, 0.5)
    assert at_a_time(on_gpu, [spec(memory_gib=20.0)], there) == 8  # the GPU's memory is meant
    two = Placement("data", 1.0, 0.0, 2)
    assert at_a_time(two, [spec(memory_gib=1.0)], there) == 4  # two CPUs each


def test_beside_gib_when_several_trials_then_the_most_that_one_holds_beside_weights() -> None:
    few, many = (
        memory_spec({"trains": "experts"}, {"num_experts": count, "top_k": 1}) for count in (3, 9)
    )
    # 9 experts x 600 numbers in float32 with two moments, a gradient and the optimiser's scratch;
    # for each of 20 tokens what one expert and the layer keep; states below the layer
    held = 9 * 600 * 20 + 20 * (360 + 320) + 2 * 8 * 10 * 10 * 4
    assert beside_gib([few, many]) * 2**30 == pytest.approx(held)
    assert beside_gib([few]) < beside_gib([many, few])
