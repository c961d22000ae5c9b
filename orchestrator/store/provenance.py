"""Finds which code and which libraries a result was made with."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from orchestrator.errors import LedgerError

ROOT = Path(__file__).resolve().parents[2]
_NAMED = ("ray", "torch", "transformers", "mlflow")
_PACKAGES = "packages"  # folder of the store with one list of packages per digest


def provenance(root: Path = ROOT) -> dict[str, str]:
    """Commit, dirty flag, hash of the trainables' source, and versions, all as text.

    `packages` is the digest of all that is installed; `keep_packages` stores the list itself.
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
        "packages": _digest(installed_packages()),
    }


def source_hash(folder: Path) -> str:
    """SHA-256 over names and contents of a package's Python files, and of the families it reads."""
    digest = hashlib.sha256()
    root = folder.parent
    families = (root / "search_spaces" / "family").glob("*.yaml")
    for path in [*sorted(folder.rglob("*.py")), *sorted(families)]:
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def installed_packages() -> str:
    """Name and version of every installed distribution, one a line, as `pip freeze` prints."""
    from importlib.metadata import distributions

    found = {f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata["Name"]}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def keep_packages(store: Path, digest: str) -> None:
    """Write what is installed into the store, once per set of packages.

    Args:
        store: The sweep's folder.
        digest: `packages` of this process's provenance.

    Raises:
        LedgerError: If the store cannot be written.
    """
    path = store / _PACKAGES / f"{digest}.txt"
    if path.exists():
        return
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(installed_packages())
        aside.replace(path)
    except OSError as error:
        raise LedgerError(f"store={store}: cannot write {path}: {error.strerror}") from error


def kept_packages(store: Path, digest: str) -> str:
    """The packages that were installed where a row was made; empty if they were not kept."""
    path = store / _PACKAGES / f"{Path(digest).name}.txt"  # a row must not name a file elsewhere
    return path.read_text() if path.is_file() else ""


def _digest(packages: str) -> str:
    return hashlib.sha256(packages.encode()).hexdigest()[:16]


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
