"""Which code and which libraries made a result."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_NAMED = ("ray", "torch", "transformers", "mlflow")


def provenance(root: Path = ROOT) -> dict[str, str]:
    """Commit, dirty flag, hash of the trainables' source, and versions, all as text.

    Commit and flag read `unknown` outside a git checkout.
    """
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": commit or "unknown",
        "is_dirty": "unknown" if changes is None else str(bool(changes)).lower(),
        "source_hash": source_hash(root / "trainables"),
        "python_version": platform.python_version(),
        **{f"{name}_version": version(name) for name in _NAMED},
    }


def source_hash(folder: Path) -> str:
    """SHA-256 over names and contents of a folder's Python files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def installed_packages() -> str:
    """Name and version of every installed distribution, one a line, as `pip freeze` prints."""
    from importlib.metadata import distributions

    found = {f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata["Name"]}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
