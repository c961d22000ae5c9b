"""A copy of the repository that a test may add files to, and commands that run in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PARTS = ("orchestrator", "trainables", "analysis", "search_spaces", "tests", "pyproject.toml")


def copy_house(folder: Path) -> Path:
    """`folder`, with all that the commands and the tests need in it."""
    for name in _PARTS:
        if (ROOT / name).is_dir():
            leave = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(ROOT / name, folder / name, ignore=leave)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def run_in(house: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A shell command in the copy, `python` being the one that runs this test."""
    python = Path(sys.executable)
    environment = {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment.pop("PYTHONPATH", None)  # of the tree that is tested, not of its copy
    return subprocess.run(
        ["bash", "-ec", command],
        cwd=house,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
