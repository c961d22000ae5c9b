import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.forecast.simulate import Job, simulate


def test_simulate_when_trials_outnumber_gpus_then_they_start_as_gpus_come_free() -> None:
    made = simulate([Job(4.0, 1), Job(2.0, 1), Job(3.0, 1)], 2, driver_seconds=0.0)
    # GPU 1: 0-4; GPU 2: 0-2, then the third until 5; idle 2 x 5 - 9 = 1 of 10
    assert made.makespan_seconds == pytest.approx(5.0)
    assert made.idle_share == pytest.approx(0.1)


def test_simulate_when_the_driver_is_slow_then_gpus_wait_for_it() -> None:
    made = simulate([Job(1.0, 1)] * 4, 2, driver_seconds=1.0)
    # both end at 1; taken at 2 and 3; the next run 2-3 and 3-4; taken at 4 and 5
    assert made.makespan_seconds == pytest.approx(5.0)
    assert made.driver_share == pytest.approx(4 / 5)
    assert made.idle_share == pytest.approx(1 - 4 / 10)
    assert made.most_waiting == 1
    assert made.idle_instant_driver == pytest.approx(0.0)  # four of 1 s fill two GPUs


def test_simulate_when_trials_share_a_gpu_or_take_two_then_no_gpu_is_given_twice() -> None:
    # two halves on one GPU at once; the pair needs both GPUs, so it waits for them
    made = simulate([Job(3.0, 0.5), Job(3.0, 0.5), Job(1.0, 2)], 2, driver_seconds=0.0)
    assert made.makespan_seconds == pytest.approx(4.0)


def test_simulate_when_actors_start_then_only_the_first_trial_of_a_gpu_waits() -> None:
    made = simulate([Job(1.0, 1)] * 3, 1, driver_seconds=0.0, start_seconds=5.0)
    assert made.makespan_seconds == pytest.approx(5 + 3)
    assert made.idle_share == made.idle_instant_driver == pytest.approx(5 / 8)
    assert made.idle_instant_start == pytest.approx(0.0)


def test_simulate_when_trials_are_few_then_gpus_are_idle_whatever_driver_and_starts_take() -> None:
    made = simulate([Job(1.0, 1), Job(3.0, 1)], 4, driver_seconds=0.5, start_seconds=2.0)
    # both start; the last ends at 5 and is taken until 5.5; 4 of 4 x 5.5, of 4 x 5, of 4 x 3
    shares = (made.idle_share, made.idle_instant_driver, made.idle_instant_start)
    assert shares == pytest.approx((1 - 4 / 22, 1 - 4 / 20, 1 - 4 / 12))


def test_simulate_when_a_trial_can_never_run_then_says_so() -> None:
    with pytest.raises(ValueError, match="a trial needs 4 GPUs; the cluster has 2"):
        simulate([Job(1.0, 4)], 2, driver_seconds=0.0)


@given(
    st.lists(st.tuples(st.floats(0.01, 9), st.sampled_from([0.25, 0.5, 1, 2])), min_size=1),
    st.integers(2, 9),
    st.floats(0, 1),
)
def test_simulate_makespan_lies_between_its_bounds(
    shapes: list[tuple[float, float]], num_gpus: int, driver_seconds: float
) -> None:
    jobs = [Job(*shape) for shape in shapes]
    made = simulate(jobs, num_gpus, driver_seconds)
    work = sum(job.seconds * job.gpus for job in jobs)
    longest = max(job.seconds for job in jobs)
    assert made.makespan_seconds >= max(work / num_gpus, longest) - 1e-6
    one_by_one = sum(job.seconds for job in jobs) + len(jobs) * driver_seconds
    assert made.makespan_seconds <= one_by_one + 1e-6
    assert -1e-6 <= made.idle_share < 1
