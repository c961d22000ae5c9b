"""What a grid loses and saves when ASHA stops trials early, by the real command.

An eighth of LEMoE's grid of 896 cells runs to its end, and again under ASHA with its first rung at
a tenth and at a fifth of the budget.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from scipy.stats import spearmanr

from orchestrator.store.ledger import Ledger
from orchestrator.store.ledger_rows import EndRow

_ROOT = Path(__file__).resolve().parents[2]
_GRID = (
    "ablation=lemoe_lora scale=paper backbone=facts axes.method.edit_layer=[9,15] "
    "axes.method.lora_rank=[1,2,4,8,16,32,64] seeds=[0] workers=2"
)
_NUM_TRIALS = 112
_BEST = 20
_METRIC = "average.token"
_SCORES = ("reliability.token.final", "generality.token.final", "locality_far.token.final")
_FIRST_RUNGS = (0.1, 0.2)


def stopping() -> None:
    """Survivors and cost of ASHA beside the whole grid."""
    with tempfile.TemporaryDirectory() as folder:
        whole = _ends(Path(folder) / "whole", "scheduler=fifo")
        final = {key: _average(row) for key, row in whole.items()}
        best = sorted(final, key=lambda key: -final[key])[:_BEST]
        cost = sum(_cpu_seconds(row) for row in whole.values())
        print(f"stopping: {len(whole)} cells run to their end in {cost:.0f} CPU-s, score {_METRIC}")
        for grace in _FIRST_RUNGS:
            store = Path(folder) / str(grace)
            ends = _ends(store, "scheduler=asha", f"scheduler.grace={grace}")
            survivors = {key for key, row in ends.items() if row.status == "finished"}
            first = {key: float(row.checkpoints[0]["compared"]) for key, row in ends.items()}
            keys = sorted(first.keys() & final.keys())
            rank = spearmanr([first[key] for key in keys], [final[key] for key in keys])
            spent = sum(_cpu_seconds(row) for row in ends.values())
            kept = len(survivors.intersection(best))
            print(
                f"    asha, first rung at {grace:g}: {len(survivors)} run to their end, among them "
                f"{kept} of the {_BEST} best and {'' if best[0] in survivors else 'not '}the very "
                f"best; Spearman of first rung and end {rank.statistic:.2f} (n = {len(keys)}); "
                f"{spent / cost:.2f} of the CPU-s"
            )


def _ends(store: Path, *typed: str) -> Mapping[str, EndRow]:
    """The trials of the grid by their settings."""
    command = [sys.executable, str(_ROOT / "orchestrator" / "sweep.py"), *_GRID.split(), *typed]
    subprocess.run([*command, f"store={store}"], check=True, capture_output=True)
    ends = {row.fingerprint: row for row in Ledger.read(store).ends.values()}
    assert len(ends) == _NUM_TRIALS, f"{len(ends)} of {_NUM_TRIALS} trials ended"
    return ends


def _average(row: EndRow) -> float:
    return sum(float(row.metrics[score]) for score in _SCORES) / len(_SCORES)


def _cpu_seconds(row: EndRow) -> float:
    return float(row.metrics["cpu_seconds"])
