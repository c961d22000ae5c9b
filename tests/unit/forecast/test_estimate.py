from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.forecast.estimate import (
    SECONDS_PER_TRIAL,
    START_SECONDS,
    forecast,
    once_seconds,
    rough_seconds,
)
from orchestrator.planning.plan import TrialSpec
from orchestrator.store.ledger_rows import EndRow

TINY = {
    "name": "tiny",
    "num_layers": 4,
    "hidden_size": 10,
    "ffn_size": 30,
    "vocabulary_size": 100,
    "memory_gib": 0.5,
    "dtype": "float32",
}


def spec(num_edits: int = 10, module: str = "moe", **more: Any) -> TrialSpec:
    protocol = {"kind": "batch", "num_edits": num_edits, "num_batches": 1}
    method = {"name": module, "module": module, "edit_layer": 2, "num_steps": 5}
    values = {"method": method, "backbone": TINY, "protocol": protocol, **more}
    return TrialSpec("a", "b", 0, dataset={}, swept={}, **values)


def end(seconds: float, trial: TrialSpec, status: str = "finished", **more: Any) -> EndRow:
    return EndRow("any", status, seconds=seconds, spec=trial.to_dict(), **more)


def test_forecast_when_earlier_trials_ended_then_their_median_counts() -> None:
    ends = [end(seconds, spec()) for seconds in (2.0, 3.0, 50.0)]
    ends += [end(999.0, spec(), "failed"), end(999.0, spec(module="other"))]
    made = forecast([spec()] * 4, ends, workers=2)
    assert made.wall_seconds == pytest.approx(START_SECONDS + 6.0)  # 4 x 3 s, two at a time
    assert made.cpu_seconds == pytest.approx(12.0)
    assert made.memory_gib == pytest.approx(1.0)  # two at a time
    assert (made.gpu_hours, made.num_measured, made.is_rough) == (0.0, 4, False)


def test_forecast_when_the_size_differs_then_the_nearest_is_scaled_by_operations() -> None:
    small, large = spec(10), spec(1000)
    ends = [end(3.0, small), end(100.0, large)]
    # 30 edits are nearer to 10
    rough = {edits: rough_seconds(spec(edits), 1e6) for edits in (10, 30)}
    made = forecast([spec(30)], ends, workers=1, cpu_flops=1e6)
    assert made.cpu_seconds == pytest.approx(3.0 * rough[30] / rough[10])
    # at 1e6 a second nearly all is operations, in proportion to the edits
    assert made.cpu_seconds == pytest.approx(9.0, rel=0.1)
    deeper = spec(method={**small.method, "edit_layer": 0})
    made = forecast([deeper], ends[:1], workers=1, cpu_flops=1e6)
    # 3.5 layers above instead of 1.5: 31.86e6 operations instead of 26.46e6, counted as below
    assert made.cpu_seconds == pytest.approx(3.0 * 31.86 / 26.46, rel=0.01)


def test_forecast_when_nothing_is_known_then_operations_are_counted_and_it_is_rough() -> None:
    # a layer: 4 x 10 x 10 + 2 x 10 x 30 = 1000 parameters, a projection 300; 10 edits x 15 tokens
    # in 5 steps: 150 x (4 x 1.5 layers x 1000 + 2 x 300), scores 10 x 3 x 4 x 100 x 10: 5.55e6
    # once through the 2.5 layers below: 150 x 2 x 2.5 x 1000 = .75e6
    # 16 prompts an edit, half before and half after: 160 x (15 x 2 x 4 x 1000 + 3 x 2 x 100 x 10)
    # = 20.16e6; at 1e6 a second 26.46 s
    # calls: 2 x 1.5 x 5 + 4 x 160 / 16 = 55 of .5 ms; 3 ms a step; 60 bytes x 300 x 5 at 5e9;
    # .1 s a trial
    expected = 26.46 + 55 * 5e-4 + 5 * 3e-3 + 60 * 300 * 5 / 5e9 + 0.1
    assert rough_seconds(spec(), 1e6) == pytest.approx(expected)
    made = forecast(
        [spec(), spec(module="other")], [end(1.0, spec(module="other"))], workers=1, cpu_flops=1e6
    )
    assert made.cpu_seconds == pytest.approx(expected + 1.0)
    assert (made.is_rough, made.num_measured) == (True, 1)


def test_forecast_when_a_row_tells_its_own_work_then_the_start_of_its_process_is_left_out() -> None:
    row = end(9.0, spec(), metrics={"edit_seconds": 2.0, "evaluation_seconds": 1.0})
    assert forecast([spec()], [row], workers=1).cpu_seconds == pytest.approx(
        3.0 + SECONDS_PER_TRIAL
    )


def test_forecast_when_a_gpu_is_needed_then_its_hours_are_counted() -> None:
    big = spec(backbone={**TINY, "name": "big", "memory_gib": 11.7})
    made = forecast([big] * 4, [end(1800.0, big)], workers=4)
    assert made.gpu_hours == pytest.approx(1.0)  # 4 x half an hour x half a GPU
    assert made.wall_seconds == pytest.approx(START_SECONDS + 1800.0)


def test_forecast_when_nothing_is_left_then_it_is_zero() -> None:
    made = forecast([], [], workers=2)
    assert (made.num_trials, made.wall_seconds, made.is_rough) == (0, 0.0, False)


def test_forecast_when_a_curve_is_measured_then_plain_trials_say_nothing_of_it() -> None:
    stream = {"kind": "lifelong", "num_edits": 10, "num_batches": 10}
    plain, curved = spec(protocol=stream), spec(protocol={**stream, "curve": True})
    assert forecast([curved], [end(3.0, plain)], workers=1).is_rough
    assert forecast([curved], [end(3.0, curved)], workers=1).cpu_seconds == pytest.approx(3.0)
    # ten batches: an edit is read again after 5.5 of them on average, 5 prompts beside the 24: more
    # operations: 50 x (15 x 2 x 4 x 1000 + 6000); more calls: 4 x 5 x 10 / 16
    more = 6.3e6 / 1e6 + 12.5 * 5e-4
    assert rough_seconds(curved, 1e6) - rough_seconds(plain, 1e6) == pytest.approx(more)


def test_forecast_when_a_trial_shared_its_cpu_then_its_cpu_seconds_count_not_its_wall_time() -> (
    None
):
    row = end(280.0, spec(), metrics={"cpu_seconds": 28.0})
    assert forecast([spec()], [row], workers=1).cpu_seconds == pytest.approx(28.0)
    # half of the trial was the start of its process, by the wall and so by the CPU
    own = {"edit_seconds": 100.0, "evaluation_seconds": 40.0}
    row = replace(row, metrics={**row.metrics, **own})
    assert forecast([spec()], [row], workers=1).cpu_seconds == pytest.approx(
        14.0 + SECONDS_PER_TRIAL
    )


def test_forecast_when_a_row_comes_from_a_gpu_then_its_wall_time_counts() -> None:
    row = end(100.0, spec(), metrics={"cpu_seconds": 250.0}, gpu="a card")
    assert forecast([spec()], [row], workers=1).cpu_seconds == pytest.approx(100.0)


def test_forecast_when_there_are_more_workers_than_cpus_then_wall_time_follows_the_cpus() -> None:
    ends = [end(10.0, spec())]
    assert forecast([spec()] * 8, ends, workers=8).wall_seconds == pytest.approx(
        START_SECONDS + 10.0
    )
    made = forecast([spec()] * 8, ends, workers=8, cpus=2)
    assert made.wall_seconds == pytest.approx(START_SECONDS + 40.0)
    assert made.memory_gib == pytest.approx(4.0)  # eight lie there all the same


def test_forecast_when_an_earlier_trial_chose_otherwise_then_it_says_nothing() -> None:
    """Another kind of expert, or a folder of the same name with another shape, is other work."""
    method = spec().method
    ffn, lora = (spec(method={**method, "expert": kind}) for kind in ("ffn", "lora"))
    assert forecast([lora], [end(3.0, ffn)], workers=1).is_rough
    assert not forecast([lora], [end(3.0, lora)], workers=1).is_rough
    wider = spec(backbone={**TINY, "hidden_size": 20})
    assert forecast([wider], [end(3.0, spec())], workers=1).is_rough


def test_forecast_when_something_is_made_for_all_trials_then_it_counts_once() -> None:
    memit = {"name": "m", "module": "m", "layers": [0, 1], "covariance_tokens_per_dim": 10}
    arms = [spec(method={**memit, "v_lr": rate}) for rate in (0.1, 0.2)]
    arms = [replace(arm, cost={"trains": "vectors"}) for arm in arms]
    # 300 tokens x 2 x (2 x 1000 + 2 x 900) + 12 x 27,000 operations, and 300 / 4096 x 4 calls
    once = 2.604 + 300 / 4096 * 4 * 5e-4
    assert once_seconds(arms, cpu_flops=1e6) == pytest.approx(once)
    together = forecast(arms, [], workers=1, cpu_flops=1e6).cpu_seconds
    assert together == pytest.approx(once + sum(rough_seconds(arm, 1e6) for arm in arms))


def test_forecast_when_networks_are_trained_then_each_that_differs_counts() -> None:
    sizes = {"layers": [2, 3], "modules": ["up", "down"], "network_rank": 4, "num_blocks": 2}
    steps = {"training_steps": 5, "edits_at_once": 1, "problems_per_step": 3}
    mend = {"name": "mend", "module": "mend", **sizes, **steps}

    def arm(rate: float = 0.1, seed: int = 0, part: str = "report") -> TrialSpec:
        made = spec(method={**mend, "training_lr": rate})
        return replace(made, seed=seed, dataset={"part": part}, cost={"trains": "networks"})

    one = once_seconds([arm()], cpu_flops=1e6)
    assert one > 0
    assert once_seconds([arm(), arm(seed=1)], cpu_flops=1e6) == pytest.approx(one)
    assert once_seconds([arm(), arm(0.2)], cpu_flops=1e6) == pytest.approx(2 * one)
    # beside what is drawn of the part that is trained on too
    drawn = [arm(part="tune"), arm(part="tune"), arm(seed=1, part="tune")]
    assert once_seconds(drawn, cpu_flops=1e6) == pytest.approx(2 * one)
    # a search has its middle trial stand for all, each of which has settings of its own
    assert once_seconds([arm()] * 4, cpu_flops=1e6, is_search=True) == pytest.approx(4 * one)
    whole = [forecast([arm()] * 4, [], workers=1, is_search=each) for each in (False, True)]
    assert whole[0].cpu_seconds < whole[1].cpu_seconds
