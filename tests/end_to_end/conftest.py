"""A tiny trained backbone, made once for all tests of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.commands import Commands, copy_database
from trainables.edits import embedded as world


@pytest.fixture(scope="session")
def cache(shared: Path) -> Path:
    """A cache with `facts_tiny` in it."""
    world.ensure_backbone("facts_tiny", shared / "cache" / "editing-sweeps" / "backbones")
    return shared / "cache"


@pytest.fixture
def bare(tmp_path: Path, cache: Path) -> Commands:
    """The commands, with nothing but a trained backbone."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return Commands(folder, cache)


@pytest.fixture
def commands(bare: Commands, empty_database: Path) -> Commands:
    """The commands, on a store that has MLflow's tables already."""
    copy_database(empty_database, bare.store)
    return bare
