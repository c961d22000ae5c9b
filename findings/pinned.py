"""Runs a program with pinned packages in a folder of its own, and compares what it prints."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path


def check(packages: Sequence[str], program: str, expected: str) -> int:
    """Say whether `program` prints what it printed when the finding was made; 0 if so, else 1.

    Args:
        packages: What to install, each pinned as `name==version`.
        program: Python that needs these packages alone.
        expected: All that it printed when the finding was made, errors included.
    """
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *packages], check=True)
        done = subprocess.run(
            [python, "-I", "-c", program],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    print(f"Python {sys.version.split()[0]}, {', '.join(packages)}")
    print(done.stdout, end="")
    if done.stdout == expected:
        print("as found")
        return 0
    print(f"changed; it used to print:\n{expected}", end="")
    return 1
