"""What `--sync` does where the store is not what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import sweep
from orchestrator.planning import plan
from orchestrator.settings import loading as config
from orchestrator.store.copies import Copies
from orchestrator.tracking.sync import sync_plan
from tests.unit.ended_trials import made_plan, written


@pytest.mark.parametrize("copies", [[], ["copies=file://{}/bucket"]])
def test_sync_when_there_is_no_such_store_then_it_is_refused_and_nothing_made(
    tmp_path: Path, copies: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "nostore"
    words = [f"store={store}", "ablation=smoke", *(each.format(tmp_path) for each in copies)]
    assert sweep.main(["--sync", *words]) == 2
    said = capsys.readouterr().err
    assert said == f"error: store={store}: no such folder; run a sweep with this store\n"
    assert list(tmp_path.iterdir()) == []


def test_sync_when_the_folder_is_no_store_then_no_database_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(["--sync", f"store={tmp_path}", "ablation=smoke"]) == 2
    assert f"store={tmp_path}: no sweep has run there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_sync_when_only_the_copies_are_left_then_the_store_is_made_of_them(tmp_path: Path) -> None:
    first, bucket = tmp_path / "first", (tmp_path / "bucket").as_uri()
    written(first, made_plan(first).trials[0], "finished")
    Copies(first, bucket).send()
    typed = ["ablation=smoke", "axes.method=[no_edit,ft_m]", "seeds=[0,1]"]
    typed += [f"store={tmp_path / 'second'}", f"copies={bucket}"]
    assert sync_plan(plan.expand(config.load(typed))).num_sent == 1
