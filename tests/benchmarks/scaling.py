"""What thousands of trials cost the driver, and what a second worker gains, by the real command."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from orchestrator.store.ledger import Ledger
from orchestrator.store.ledger_rows import EndRow

ROOT = Path(__file__).resolve().parents[2]

NUM_TRIALS = 10_000
WINDOW = 1000  # trials that are timed at the beginning and at the end
WARM_UP = 500  # trials of the first Tuner, which also starts Ray and its workers
POLL_SECONDS = 1.0
MOST_SLOWER, MOST_GROWTH_MIB, MOST_REPLAY_SECONDS, MOST_TABLE_SECONDS = 1.5, 300.0, 5.0, 7.3

# Of 60 edits, so that a trial takes more than LEAST_TRIAL_SECONDS.
WORKERS = (
    "ablation=smoke method=lemoe_lora backbone=facts protocol.num_edits=60 method.edit_layer=9 "
    "method.lora_rank=64"
)
WORKERS_TRIALS = 16  # of each sweep
LEAST_TRIAL_SECONDS, LEAST_SPEEDUP = 3.0, 1.7


def many_trials() -> None:
    """Trials that edit nothing: the driver's time and memory, then replay and table."""
    with tempfile.TemporaryDirectory() as store:
        samples: list[_Sample] = []
        seeds = ",".join(map(str, range(NUM_TRIALS)))
        typed = ["ablation=smoke", "method=no_edit", "protocol.num_edits=1", f"seeds=[{seeds}]"]
        with _sweeping(store, [*typed, "workers=2"]) as driver:
            while driver.poll() is None:
                with suppress(psutil.NoSuchProcess):
                    samples.append(_sample(psutil.Process(driver.pid)))
                time.sleep(POLL_SECONDS)
        begin = time.perf_counter()
        rows = sorted(Ledger.read(store).ends.values(), key=lambda row: row.time)
        replay = time.perf_counter() - begin
        ends = [row.time for row in rows]
        assert len(ends) == NUM_TRIALS, f"{len(ends)} of {NUM_TRIALS} trials ended"
        windows = [slice(-1 - WINDOW, None), slice(WARM_UP, WARM_UP + WINDOW + 1)]  # last, first
        last, first = ((ends[each][-1] - ends[each][0]) / WINDOW for each in windows)
        warm = [sample.mib for sample in samples if sample.time >= ends[WARM_UP]]
        growth = max(warm) - warm[0]
        begin = time.perf_counter()
        table = [sys.executable, str(ROOT / "analysis" / "table.py"), "smoke", f"store={store}"]
        subprocess.run(table, check=True, capture_output=True)
        table_seconds = time.perf_counter() - begin
    print(f"scale: {NUM_TRIALS} trials of no_edit by 2 workers in {ends[-1] - ends[0]:.0f} s")
    _line("wall s per trial, last thousand / first", last / first, MOST_SLOWER)
    print(f"    {last:.3f} / {first:.3f}")
    # Whether the driver or the machine grew slower: what the host withheld is in neither.
    parts = [_between(samples, ends[each][0], ends[each][-1]) for each in windows]
    for whose, values in (
        ("the driver's cpu s per trial", [part.cpu_seconds / WINDOW for part in parts]),
        ("a trial's own cpu s", [median(_own_seconds(rows[each])) for each in windows]),
        ("share of the cpus that the host withheld", [part.stolen_share for part in parts]),
    ):
        print(f"    {whose}: {values[0]:.3f} / {values[1]:.3f}")
    _line(f"growth of the driver after {WARM_UP} trials, MiB", growth, MOST_GROWTH_MIB)
    print(f"    from {warm[0]:.0f}, in the end {warm[-1]:.0f}")
    _line("ledger replay, s", replay, MOST_REPLAY_SECONDS)
    _line("table over all runs, s", table_seconds, MOST_TABLE_SECONDS)


def two_workers() -> None:
    """Trials per minute of two workers against one."""
    passed: dict[int, float] = {1: 0.0, 2: 0.0}  # workers -> seconds
    counted = {1: 0, 2: 0}
    for workers in (1, 2, 2, 1):  # a machine that grows slower, or faster, harms both alike
        with tempfile.TemporaryDirectory() as store:
            seeds = ",".join(map(str, range(WORKERS_TRIALS)))
            typed = [*WORKERS.split(), f"seeds=[{seeds}]", f"workers={workers}"]
            with _sweeping(store, typed) as driver:
                assert driver.wait() == 0
            rows = sorted(Ledger.read(store).ends.values(), key=lambda row: row.time)
        # Each worker's first trial pays for what all share.
        seconds = median(row.seconds for row in rows)
        spent = rows[-1].time - rows[workers - 1].time
        passed[workers] += spent
        counted[workers] += len(rows) - workers
        rate = 60 * (len(rows) - workers) / spent
        print(
            f"workers: {workers}: {rate:.1f} trials per minute, {seconds:.1f} s each (at "
            f"least {LEAST_TRIAL_SECONDS:.0f}: {verdict(seconds >= LEAST_TRIAL_SECONDS)})",
            flush=True,
        )
    ratio = (counted[2] / passed[2]) / (counted[1] / passed[1])
    print(f"  ratio {ratio:.2f}, demand >= {LEAST_SPEEDUP}: {verdict(ratio >= LEAST_SPEEDUP)}")


@contextmanager
def _sweeping(store: str, typed: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The sweep of `typed` in a process of its own, whose output nobody reads."""
    command = [sys.executable, str(ROOT / "orchestrator" / "sweep.py"), *typed, f"store={store}"]
    driver = subprocess.Popen(
        command, cwd=store, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


def _own_seconds(rows: Sequence[EndRow]) -> list[float]:
    return [float(row.metrics["cpu_seconds"]) for row in rows]


@dataclass(frozen=True)
class _Sample:
    """What a process holds and has used until now, and what the host has withheld from all."""

    time: float
    mib: float
    cpu_seconds: float
    stolen_seconds: float


def _sample(process: psutil.Process) -> _Sample:
    used = process.cpu_times()
    return _Sample(
        time=time.time(),
        mib=process.memory_info().rss / 2**20,
        cpu_seconds=used.user + used.system,
        stolen_seconds=getattr(psutil.cpu_times(), "steal", 0.0),
    )


@dataclass(frozen=True)
class _Part:
    cpu_seconds: float
    stolen_share: float


def _between(samples: Sequence[_Sample], begin: float, end: float) -> _Part:
    """What was used between two moments."""
    within = [sample for sample in samples if begin <= sample.time <= end]
    first, last = within[0], within[-1]
    cpus = (psutil.cpu_count() or 1) * (last.time - first.time)
    return _Part(
        cpu_seconds=last.cpu_seconds - first.cpu_seconds,
        stolen_share=(last.stolen_seconds - first.stolen_seconds) / cpus,
    )


def _line(name: str, observed: float, most: float) -> None:
    print(f"  {name}: {observed:.2f}, demand <= {most:g}: {verdict(observed <= most)}", flush=True)


def verdict(is_met: bool) -> str:
    """Whether a demand is met, in a word."""
    return "ok" if is_met else "MISS"
