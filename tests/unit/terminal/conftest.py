from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.small_spaces import write_small_spaces


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_spaces(tmp_path / "search_spaces")
