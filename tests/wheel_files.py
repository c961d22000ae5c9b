"""Wheels made by tests, and pip's settings by which they are found and no index is asked."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from trainables.spec import PackageSpec

# Of a wheel that is imported or installed this would be seen.
TRAP = "raise SystemExit('the wheel was run')\n"


def write_wheel(folder: Path, name: str, member: str, content: Path) -> PackageSpec:
    """A wheel of version 1.2 in `folder` that holds the file `content` as `member`."""
    module, version = name.replace("-", "_"), "1.2"
    information = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.write(content, member)
        wheel.writestr(f"{module}/__init__.py", TRAP)
        wheel.writestr(
            f"{information}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            "Requires-Dist: no-such-thing\n",
        )
        wheel.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{information}/RECORD", "")
    return PackageSpec(name, version, member, hashlib.sha256(content.read_bytes()).hexdigest())


def ask_no_index(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Pip's own settings, as a user makes them: a folder of wheels and no index."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
