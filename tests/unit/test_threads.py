from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.threads import usable_cpus, wait_passively

ROOT = Path(__file__).resolve().parents[2]


def test_wait_passively_when_the_user_has_chosen_then_that_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
    wait_passively()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["KMP_BLOCKTIME"]) == ("active", "0")


def test_sweep_when_started_then_torch_reads_that_threads_sleep() -> None:
    """What the run-time itself has read is told by its own display, once torch has loaded it."""
    script = (
        "import sys; sys.argv = ['sweep.py', '--list']\n"
        "import runpy\n"
        "try: runpy.run_path('orchestrator/sweep.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules\n"
        "import torch; torch.ones(2)\n"
    )
    unset = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")}
    shown = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=unset | {"OMP_DISPLAY_ENV": "true"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in shown


@pytest.mark.parametrize(
    ("text", "most"), [("max 100000\n", None), ("150000 100000\n", 2), ("1000 100000\n", 1)]
)
def test_usable_cpus_when_a_group_has_a_share_then_no_more(
    tmp_path: Path, text: str, most: int | None
) -> None:
    (tmp_path / "cpu.max").write_text(text)
    own = len(os.sched_getaffinity(0))
    assert usable_cpus(tmp_path / "cpu.max") == min(own, most or own)


def test_usable_cpus_when_there_is_no_group_then_those_of_the_process(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "cpu.max") == len(os.sched_getaffinity(0))
