"""`python -m tests.devices [method ...] [--lines]`: what every method does to pretended GPUs.

One line per method, family and layout: operations on two devices, waits of the host in the worst
optimiser step, bytes of the method's state and the most bytes on one GPU. With `--lines` also where
the host waits.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers.utils.logging import disable_progress_bar

from tests.conftest import save_tiny
from tests.contract.test_every_method import METHODS
from tests.devices.trials import FAMILIES, LAYOUTS, Trial, run_trial

_COLUMNS = "{:18}{:8}{:9}{:>6}{:>7}{:>12}{:>12}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.devices", description=__doc__)
    parser.add_argument("methods", nargs="*", metavar="method", default=METHODS)
    parser.add_argument("--lines", action="store_true", help="say where the host waits")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    print(_COLUMNS.format("method", "family", "layout", "mixes", "syncs", "state B", "peak B"))
    with tempfile.TemporaryDirectory() as root:
        checkpoints = {family: save_tiny(family, Path(root) / family) for family in FAMILIES}
        for name in arguments.methods:
            for family, checkpoint in checkpoints.items():
                for layout in LAYOUTS:
                    folder = Path(root) / f"{name}-{family}-{layout}"
                    try:
                        trial = run_trial(name, checkpoint, layout, folder)
                    except pytest.skip.Exception as reason:
                        print(f"{name:18}{family:8}{layout:9}{reason}")
                        continue
                    _tell(name, family, layout, trial, has_lines=arguments.lines)


def _tell(name: str, family: str, layout: str, trial: Trial, *, has_lines: bool) -> None:
    numbers = len(trial.mixes), trial.syncs_per_step, trial.state_bytes
    most = max(trial.peak_bytes.values())
    print(_COLUMNS.format(name, family, layout, *numbers, most), flush=True)
    if has_lines:
        worst = Counter(trial.worst_step)
        for sync, times in sorted(worst.items(), key=lambda item: item[0].line):
            print(f"    {times} x {sync.cause:24}{sync.line}")


if __name__ == "__main__":
    main()
