"""Training the embedded backbone beside another busy process, against the same steps alone.

Threads that spin while they wait hold up a core that the other process could use, and are held up
by it; threads that sleep share it. Each run is a process of its own, because an OpenMP run-time
reads its settings once; alone and beside, passive and spinning take turns.

    python tests/benchmarks/shared.py STEPS      one run; prints its wall seconds
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from orchestrator.threads import usable_cpus, wait_passively

MOST_SLOWDOWN = 3.0
_STEPS, _PAIRS = 8, 3
_MOST_SECONDS = 120.0
_SPINNING = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "30000000000"}
_BUSY = "while True: pass"


def shared() -> None:
    """Ratios of wall times, for threads that sleep as a sweep's do, and for those that spin."""
    print(
        f"shared: wall seconds of {_STEPS} training steps on {usable_cpus()} cores, alone and "
        f"beside one busy process, {_PAIRS} pairs in turns; load {os.getloadavg()[0]:.1f}"
    )
    ratios: dict[str, list[float]] = {"asleep": [], "spinning": []}
    for _ in range(_PAIRS):
        for name, settings in (("asleep", {}), ("spinning", _SPINNING)):
            alone, beside = _seconds(settings, is_busy=False), _seconds(settings, is_busy=True)
            ratios[name].append(beside / alone)
            limit = ", given up" if beside >= _MOST_SECONDS else ""
            print(f"  {name}: {alone:.1f} alone, {beside:.1f} beside{limit}", flush=True)
    slowest = median(ratios["asleep"])
    verdict = "met" if slowest <= MOST_SLOWDOWN else "NOT MET"
    print(
        f"  asleep {slowest:.1f} times, demand <= {MOST_SLOWDOWN:.0f}: {verdict}; "
        f"spinning {median(ratios['spinning']):.1f} times"
    )


def _seconds(settings: dict[str, str], *, is_busy: bool) -> float:
    """Wall seconds of the steps in a process with `settings`; a busy one beside it or not."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    other = subprocess.Popen([sys.executable, "-c", _BUSY]) if is_busy else None
    try:
        made = subprocess.run(
            [sys.executable, __file__, str(_STEPS)],
            env=inherited | {"OMP_NUM_THREADS": str(usable_cpus())} | settings,
            capture_output=True,
            text=True,
            check=True,
            timeout=_MOST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return _MOST_SECONDS
    finally:
        if other is not None:
            other.kill()
            other.wait()
    return float(made.stdout.split()[-1])


def _train(num_steps: int) -> float:
    """Wall seconds of so many steps of `facts` after two that warm it up."""
    wait_passively()
    from trainables.backbones.embedded import facts as trainer
    from trainables.edits import embedded as world

    material, made = world._world_material(), world.EMBEDDED["facts"]
    recipe = replace(made.recipe, num_steps=num_steps + 2)
    rows = material.rows
    tokenizer = trainer.train_tokenizer(recipe, rows)
    encoded, _ = trainer.encode(tokenizer, [row[:2] for row in rows], recipe.max_tokens)
    begins: list[float] = []
    trainer.fit(
        trainer.build_model(recipe, tokenizer),
        recipe,
        encoded,
        [row[2] for row in rows],
        tokenizer,
        lambda *_: begins.append(time.perf_counter()),
    )
    return begins[-1] - begins[1]


if __name__ == "__main__":
    print(_train(int(sys.argv[1])))
