from __future__ import annotations

from typing import Any

import pytest

from orchestrator.estimate import SECONDS_PER_TRIAL, START_SECONDS, forecast, rough_seconds
from orchestrator.plan import TrialSpec

TINY = {
    "name": "tiny",
    "num_layers": 4,
    "hidden_size": 10,
    "ffn_size": 30,
    "memory_gib": 0.5,
    "dtype": "float32",
}


def spec(num_edits: int = 10, module: str = "moe", **more: Any) -> TrialSpec:
    protocol = {"kind": "batch", "num_edits": num_edits, "num_batches": 1}
    method = {"name": module, "module": module, "edit_layer": 2, "num_steps": 5}
    values = {"method": method, "backbone": TINY, "protocol": protocol, **more}
    return TrialSpec("a", "b", 0, dataset={}, swept={}, **values)


def end(seconds: float, trial: TrialSpec, status: str = "finished") -> dict[str, Any]:
    return {"status": status, "seconds": seconds, "spec": trial.to_dict()}


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
    # trained through 4 layers instead of 2: 12e6 + 12e6 operations instead of 6e6 + 12e6
    assert made.cpu_seconds == pytest.approx(3.0 * 24 / 18, rel=0.01)


def test_forecast_when_nothing_is_known_then_operations_are_counted_and_it_is_rough() -> None:
    # a layer: 4 x 10 x 10 + 2 x 10 x 30 = 1000 parameters; 10 edits x 15 tokens = 150
    # trained: 150 x 1000 x 4 x 2 layers x 5 steps = 6e6; read: 150 x 1000 x 2 x 4 layers x 10
    # prompts = 12e6; at 1e6 a second 18 s
    # calls: 2 x 2 layers x 5 steps + 4 x 10 x 10 / 16 = 45 of .7 ms; 5 ms per step, .5 s per trial
    expected = 18 + 45 * 7e-4 + 5 * 5e-3 + 0.5
    assert rough_seconds(spec(), 1e6) == pytest.approx(expected)
    made = forecast(
        [spec(), spec(module="other")], [end(1.0, spec(module="other"))], workers=1, cpu_flops=1e6
    )
    assert made.cpu_seconds == pytest.approx(expected + 1.0)
    assert (made.is_rough, made.num_measured) == (True, 1)


def test_forecast_when_a_row_tells_its_own_work_then_the_start_of_its_process_is_left_out() -> None:
    row = end(9.0, spec()) | {"metrics": {"edit_seconds": 2.0, "evaluation_seconds": 1.0}}
    assert forecast([spec()], [row], workers=1).cpu_seconds == pytest.approx(
        3.0 + SECONDS_PER_TRIAL
    )


def test_forecast_when_a_gpu_is_needed_then_its_hours_are_counted() -> None:
    big = spec(backbone={**TINY, "name": "big", "memory_gib": 12.0})
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
    # ten batches: an edit is read again after 5.5 of them on average, 5 prompts beside the 10
    # more operations: 150 tokens x 1000 x 2 x 4 layers x 5; more calls: 4 x 5 x 10 / 16
    more = 6e6 / 1e6 + 12.5 * 7e-4
    assert rough_seconds(curved, 1e6) - rough_seconds(plain, 1e6) == pytest.approx(more)
