"""What thousands of trials cost the driver, and what a second worker gains, by the real command."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from orchestrator.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]

NUM_TRIALS = 10_000
WINDOW = 1000  # trials that are timed at the beginning and at the end
WARM_UP = 500  # trials of the first Tuner, which also starts Ray and its workers
POLL_SECONDS = 1.0
MOST_SLOWER, MOST_GROWTH_MIB, MOST_REPLAY_SECONDS, MOST_TABLE_SECONDS = 1.5, 300.0, 5.0, 30.0

# Of 60 edits, so that a trial takes more than LEAST_TRIAL_SECONDS.
WORKERS = (
    "ablation=smoke method=lemoe_lora backbone=facts protocol.num_edits=60 method.edit_layer=9 "
    "method.lora_rank=64"
)
WORKERS_TRIALS = 24
LEAST_TRIAL_SECONDS, LEAST_SPEEDUP = 3.0, 1.7


def many_trials() -> None:
    """Trials that edit nothing: the driver's time and memory, then replay and table."""
    with tempfile.TemporaryDirectory() as store:
        memory: list[float] = []  # MiB, every POLL_SECONDS
        seeds = ",".join(map(str, range(NUM_TRIALS)))
        typed = ["ablation=smoke", "method=no_edit", "protocol.num_edits=1", f"seeds=[{seeds}]"]
        with _sweeping(store, [*typed, "workers=2"]) as driver:
            while driver.poll() is None:
                memory += _resident_mib(driver.pid)
                time.sleep(POLL_SECONDS)
        begin = time.perf_counter()
        rows = sorted(Ledger.read(store).ends.values(), key=lambda row: float(row["time"]))
        replay = time.perf_counter() - begin
        ends = [float(row["time"]) for row in rows]
        assert len(ends) == NUM_TRIALS, f"{len(ends)} of {NUM_TRIALS} trials ended"
        early, late = rows[WARM_UP : WARM_UP + WINDOW], rows[-WINDOW:]
        first = (ends[WARM_UP + WINDOW] - ends[WARM_UP]) / WINDOW
        last = (ends[-1] - ends[-1 - WINDOW]) / WINDOW
        share = (ends[WARM_UP] - ends[0]) / (ends[-1] - ends[0])
        warm = memory[int(len(memory) * share) :]
        growth = max(warm) - warm[0]
        begin = time.perf_counter()
        table = [sys.executable, str(ROOT / "analysis" / "table.py"), "smoke", f"store={store}"]
        subprocess.run(table, check=True, capture_output=True)
        table_seconds = time.perf_counter() - begin
    print(f"scale: {NUM_TRIALS} trials of no_edit by 2 workers in {ends[-1] - ends[0]:.0f} s")
    _line("wall s per trial, last thousand / first", last / first, MOST_SLOWER)
    print(f"    {last:.3f} / {first:.3f}")
    own = [median(float(row["metrics"]["cpu_seconds"]) for row in part) for part in (late, early)]
    print(f"    the trials' own cpu s, the same work: {own[0]:.4f} / {own[1]:.4f}")
    _line(f"growth of the driver after {WARM_UP} trials, MiB", growth, MOST_GROWTH_MIB)
    print(f"    from {warm[0]:.0f}, in the end {warm[-1]:.0f}")
    _line("ledger replay, s", replay, MOST_REPLAY_SECONDS)
    _line("table over all runs, s", table_seconds, MOST_TABLE_SECONDS)


def two_workers() -> None:
    """Trials per minute of two workers against one."""
    rates = []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as store:
            seeds = ",".join(map(str, range(WORKERS_TRIALS)))
            typed = [*WORKERS.split(), f"seeds=[{seeds}]", f"workers={workers}"]
            with _sweeping(store, typed) as driver:
                assert driver.wait() == 0
            rows = sorted(Ledger.read(store).ends.values(), key=lambda row: float(row["time"]))
        # Each worker's first trial pays for what all share.
        seconds = median(float(row["seconds"]) for row in rows)
        passed = float(rows[-1]["time"]) - float(rows[workers - 1]["time"])
        rates.append(60 * (len(rows) - workers) / passed)
        print(
            f"workers: {workers}: {rates[-1]:.1f} trials per minute, {seconds:.1f} s each (at "
            f"least {LEAST_TRIAL_SECONDS:.0f}: {verdict(seconds >= LEAST_TRIAL_SECONDS)})",
            flush=True,
        )
    ratio = rates[1] / rates[0]
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


def _resident_mib(pid: int) -> list[float]:
    """Memory that a process holds now, as Linux counts it; nothing once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")]


def _line(name: str, observed: float, most: float) -> None:
    print(f"  {name}: {observed:.2f}, demand <= {most:g}: {verdict(observed <= most)}", flush=True)


def verdict(is_met: bool) -> str:
    """Whether a demand is met, in a word."""
    return "ok" if is_met else "MISS"
