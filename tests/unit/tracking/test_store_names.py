"""A store may bear any name: what has a meaning in an address is no more than a sign in a path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from analysis.reading.runs import read_records, read_runs
from orchestrator.tracking.tracker import Tracker
from tests.unit.tracking.test_tracker import row

NAMES = ("plain", "a%20b", "a?b", "a#b", "a b", "100%", "a&b=c;d", "ünï çødé", 'it\'s "it"', "b\\c")


@pytest.mark.parametrize("name", NAMES)
def test_a_store_of_any_name_holds_its_runs_and_records_and_a_table_reads_them(
    name: str, tmp_path: Path, empty_database: Path
) -> None:
    store = tmp_path / name
    (store / "records").mkdir(parents=True)
    shutil.copy(empty_database, store / "mlflow.db")
    line = {
        "record_id": "a",
        "subject": "s",
        "score": "reliability",
        "token": 0.25,
        "when": "final",
    }
    (store / "records" / "abc.jsonl").write_text(json.dumps(line) + "\n")
    tracker = Tracker(store, "named")
    tracker.log(row("f1", records="abc.jsonl"))
    tracker.close()
    assert (tracker.failures, tracker.num_unsent) == ([], 0)
    assert [folder.name for folder in tmp_path.iterdir()] == [name]  # and nothing elsewhere

    rows = read_runs([store], "named")
    assert set(rows["fingerprint"]) == {"f1"}
    for address in (rows["records"].iloc[0], str(store / "records" / "abc.jsonl")):
        records = read_records(address, "facts")
        assert records is not None
        assert records["token"].tolist() == [0.25]


def test_the_first_driver_makes_the_database_inside_a_store_of_an_odd_name(
    empty_database: Path,
) -> None:
    assert {"%", "?", "#"} <= set(empty_database.parent.name)
    assert empty_database.is_file()
    assert [path.name for path in empty_database.parents[1].glob("*d*e*")] == [
        empty_database.parent.name
    ]
