"""A tiny trained backbone and empty MLflow tables, made once for all tests of the commands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.end_to_end.commands import Commands, copy_database
from trainables import world


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "end_to_end"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def cache(shared: Path) -> Path:
    """A cache with `facts_tiny` in it."""
    world.ensure_backbone("facts_tiny", shared / "cache" / "editing-sweeps" / "backbones")
    return shared / "cache"


@pytest.fixture(scope="session")
def empty_database(shared: Path) -> Path:
    """MLflow's tables without a run."""
    from mlflow import MlflowClient

    path = shared / "empty.db"
    with FileLock(f"{path}.lock"):
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


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
