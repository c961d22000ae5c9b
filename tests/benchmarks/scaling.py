"""What thousands of trials cost the driver, and what a second worker gains, by the real command."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import psutil

from orchestrator.store.ledger import Ledger
from orchestrator.store.ledger_rows import EndRow

ROOT = Path(__file__).resolve().parents[2]

NUM_TRIALS = 10_000
NUM_DRAWS = 2_000
NUM_ROWS = 100_000
WINDOW = 1000  # trials that are timed at the beginning and at the end
POLL_SECONDS = 1.0
MOST_SLOWER, MOST_GROWTH_MIB, MOST_REPLAY_SECONDS, MOST_TABLE_SECONDS = 1.5, 300.0, 5.0, 7.3
MOST_LONG_REPLAY_SECONDS, MOST_LONG_REPLAY_GIB = 10.0, 1.0

SEARCH = (
    *("ablation=smoke", "plan=search", "method=ft_m", "method.num_steps=1", "seeds=[0]"),
    "axes={method.edit_lr: {distribution: loguniform, low: 1.0e-6, high: 1.0e-2}}",
    "protocol.num_edits=1",
)
READ = """
import resource, sys, time
from orchestrator.store.ledger import Ledger
begin = time.perf_counter()
history = Ledger.read(sys.argv[1])
seconds = time.perf_counter() - begin
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""

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
        samples = _watched(store, [[*_no_edits(), "workers=2"]])
        rows = _ends(store)
        print(f"scale: {NUM_TRIALS} trials of no_edit by 2 workers in {_seconds(rows):.0f} s")
        _compare_ends(rows, samples, WINDOW)
        _read_again(store, "smoke")


def two_drivers() -> None:
    """The same by two drivers of one worker each, which share one store."""
    with tempfile.TemporaryDirectory() as store:
        samples = _watched(store, [[*_no_edits(), "workers=1"]] * 2)
        rows = _ends(store)
        segments = [path.read_bytes() for path in (Path(store) / "ledger").glob("*.jsonl")]
        counts = [segment.count(b'"event":"end"') for segment in segments]
        print(f"drivers: {NUM_TRIALS} trials by two drivers in {_seconds(rows):.0f} s: {counts}")
        assert sum(counts) == NUM_TRIALS, "a trial ran twice"
        _compare_ends(rows, samples, WINDOW)
        _read_again(store, "smoke")


def long_search() -> None:
    """A search of 2,000 draws, each one step on one edit, by one worker and by two."""
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as store:
            samples = _watched(store, [[*SEARCH, f"num_trials={NUM_DRAWS}", f"workers={workers}"]])
            rows = _ends(store)
            print(f"search: {len(rows)} draws by {workers} workers in {_seconds(rows):.0f} s")
            _compare_ends(rows, samples, WINDOW // 5)


def long_ledger() -> None:
    """What it takes to read 100,000 ends, of the size that those of a sweep have."""
    with tempfile.TemporaryDirectory() as store:
        _watched(store, [["ablation=smoke", "method=ft_m", "seeds=[0]"]])
        (row,) = _ends(store)
        with Ledger.open(store) as ledger:
            for number in range(NUM_ROWS - 1):
                ledger.append(replace(row, fingerprint=f"{number:032x}", time=0.0))
        size = sum(path.stat().st_size for path in (Path(store) / "ledger").glob("*.jsonl"))
        told = subprocess.run(
            [sys.executable, "-c", READ, store],
            check=True,
            capture_output=True,
            cwd=ROOT,
            text=True,
        )
        seconds, gib = map(float, told.stdout.split())
    print(f"replay: {NUM_ROWS} ends of a trial, {size / 2**20:.0f} MiB, one ledger")
    _line("seconds", seconds, MOST_LONG_REPLAY_SECONDS)
    _line("peak memory of the process, GiB", gib, MOST_LONG_REPLAY_GIB)


def _no_edits() -> list[str]:
    """A grid of so many trials that edit nothing."""
    seeds = ",".join(map(str, range(NUM_TRIALS)))
    return ["ablation=smoke", "method=no_edit", "protocol.num_edits=1", f"seeds=[{seeds}]"]


def _watched(store: str, commands: Sequence[Sequence[str]]) -> list[list[_Sample]]:
    """Runs sweeps at the same time to their ends; what each driver was seen to use."""
    with ExitStack() as stack:
        drivers = [stack.enter_context(_sweeping(store, typed)) for typed in commands]
        samples: list[list[_Sample]] = [[] for _ in drivers]
        while any(driver.poll() is None for driver in drivers):
            for driver, own in zip(drivers, samples, strict=True):
                with suppress(psutil.Error):
                    if driver.poll() is None:
                        own.append(_sample(psutil.Process(driver.pid)))
            time.sleep(POLL_SECONDS)
    said = [(Path(store) / f"driver{driver.pid}.log").read_text() for driver in drivers]
    for driver, text in zip(drivers, said, strict=True):
        assert driver.returncode == 0, f"a sweep ended with {driver.returncode}: {text[-2000:]}"
    return samples


def _ends(store: str) -> list[EndRow]:
    """How the trials of a store ended, the first first."""
    return sorted(Ledger.read(store).ends.values(), key=lambda row: row.time)


def _seconds(rows: Sequence[EndRow]) -> float:
    return rows[-1].time - rows[0].time


def _compare_ends(rows: Sequence[EndRow], samples: Sequence[list[_Sample]], window: int) -> None:
    """Prints what the last trials took beside the first, behind a warm-up of half a window."""
    times = [row.time for row in rows]
    warm_up = window // 2
    windows = [slice(warm_up, warm_up + window + 1), slice(-1 - window, None)]  # first, last
    first, last = ((times[each][-1] - times[each][0]) / window for each in windows)
    _line(f"wall s per trial, last {window} / first", last / first, MOST_SLOWER)
    print(f"    {first:.3f} / {last:.3f}")
    # Whether a driver or the machine grew slower: what the host withheld is in neither.
    for number, own in enumerate(samples, 1):
        parts = [_between(own, times[each][0], times[each][-1]) for each in windows]
        for whose, values in (
            (f"cpu s per trial, driver {number}", [part.cpu_seconds / window for part in parts]),
            ("a trial's own cpu s", [median(_own_seconds(rows[each])) for each in windows]),
            ("share of the cpus that the host withheld", [part.stolen_share for part in parts]),
        ):
            print(f"    {whose}: {values[0]:.4f} / {values[1]:.4f}")
        warm = [sample.mib for sample in own if sample.time >= times[warm_up]]
        _line(f"growth of driver {number} since, MiB", max(warm) - warm[0], MOST_GROWTH_MIB)
        print(f"    from {warm[0]:.0f}, in the end {warm[-1]:.0f}")


def _read_again(store: str, ablation: str) -> None:
    """Prints how long a second look at a store takes."""
    begin = time.perf_counter()
    Ledger.read(store)
    _line("ledger replay, s", time.perf_counter() - begin, MOST_REPLAY_SECONDS)
    begin = time.perf_counter()
    table = [sys.executable, str(ROOT / "analysis" / "table.py"), ablation, f"store={store}"]
    said = subprocess.run(table, check=False, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    lacking = [line for line in said.stdout.splitlines() if "MLflow lacks" in line]
    print(f"    {lacking[0] if lacking else 'MLflow has the run of every trial'}")
    _line("table over all runs, s", time.perf_counter() - begin, MOST_TABLE_SECONDS)


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
    """The sweep of `typed` in a process of its own, which writes into `driver<pid>.log`."""
    command = [sys.executable, str(ROOT / "orchestrator" / "sweep.py"), *typed, f"store={store}"]
    written = Path(store) / "driver.log"
    with written.open("wb") as file:
        driver = subprocess.Popen(command, cwd=store, stdout=file, stderr=subprocess.STDOUT)
    written.rename(written.with_name(f"driver{driver.pid}.log"))
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
