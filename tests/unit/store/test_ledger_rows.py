"""Rows of the ledger: what a trial reports comes out of the reader as it went in."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from orchestrator.errors import LedgerError
from orchestrator.planning.cell import Cell, Resolved
from orchestrator.planning.identity import fingerprint
from orchestrator.planning.trial_spec import TrialSpec as PlannedSpec
from orchestrator.settings import loading as config
from orchestrator.store.ledger import Ledger
from orchestrator.store.ledger_rows import SCHEMA, CheckpointRow, EndRow, read_row
from orchestrator.store.rows import end_row
from orchestrator.store.settled import Options
from orchestrator.terminal.dry_run import dry_run
from tests.unit.ended_trials import made_plan
from tests.unit.file_trials import spec, write, zsre_line
from trainables.spec import TrialSpec
from trainables.trials.compared import Compares
from trainables.trials.run import Runtime, TrialRun
from trainables.trials.workbench import Workbench

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "store_without_schema" / "store"


def test_report_of_a_real_trial_comes_out_of_the_ledger_as_it_went_in(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    """Both ends of the channel: trainables -> driver -> ledger -> reader."""
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(60)])
    wanted = spec(checkpoints["llama"], "zsre", path, curve=True)
    compared = Compares("reliability.token", ("reliability.token",))
    runtime = Runtime(tmp_path, tmp_path, rungs=(0.5, 1.0), compares=compared)
    run = TrialRun(Workbench(tmp_path / "cache"), runtime, "key", TrialSpec.parse(wanted))
    rung, last = (json.loads(json.dumps(run.next_row())) for _ in range(2))
    assert run.loop is not None
    last |= {"curve": run.loop.curve(), "records": "abc.jsonl", "hostname": "host", "seconds": 1.5}
    run.close()
    trial = made_plan(tmp_path).trials[0]
    resolved = Resolved("weights", "data", 1)
    cell = Cell(fingerprint(trial, resolved.identity), trial, resolved)
    made = {"commit": "c", "source_hash": "s"}
    end = end_row(cell, last, stop_reason=None, checkpoints=[rung], provenance=made)
    with Ledger.open(tmp_path) as ledger:
        ledger.append(CheckpointRow(cell.key, rung, 5.0))
        ledger.append(end)

    history = Ledger.read(tmp_path)

    assert history.checkpoints == {cell.key: [CheckpointRow(cell.key, rung, 5.0)]}
    assert history.ends == {cell.key: end}
    assert end.ablation == "smoke"
    # Every number of the report is a metric, and only its text and its flag are not.
    words = ("status", "device", "hostname", "records", "curve", "done", "compared_by")
    assert {**end.metrics} == {name: last[name] for name in last if name not in words}
    assert len(end.checkpoints) == 1 + 3  # the rung, and the curve of three batches
    assert end.compared_by == "reliability.token"
    assert (end.device, end.host, end.fidelity, end.seconds) == ("cpu", "host", 1.0, 1.5)


def test_rows_on_disk_begin_with_event_and_schema(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.append(CheckpointRow("a", {"progress": 0.5, "schema": 7, "event": "end"}))
        ledger.append(EndRow("a", "finished"))
    first, second = ledger.path.read_text().splitlines()
    # analysis looks for ends by the beginning of the line
    assert first.startswith('{"event":"checkpoint","schema":1,"fingerprint":"a"')
    assert second.startswith('{"event":"end","schema":1,')
    assert set(json.loads(second)) == {"event", "schema", *(each.name for each in fields(EndRow))}
    assert Ledger.read(tmp_path).checkpoints["a"][0].values == {"progress": 0.5}


def test_row_without_a_schema_or_a_younger_field_is_read_with_its_default() -> None:
    [line] = (FIXTURE / "ledger").glob("*-host-3-*.jsonl")
    old = json.loads(line.read_text())
    assert "schema" not in old
    row = read_row(old)
    assert isinstance(row, EndRow)
    younger = {"compared_by": ""}  # a field that the fixture's version did not write
    assert row.to_json() == {"event": "end", "schema": SCHEMA, **old, **younger}
    del old["micro_batch"], old["gpu"]  # as of the first stores
    older = read_row(old | {"schema": SCHEMA, "added_one_day": 1})
    assert isinstance(older, EndRow)
    assert (older.micro_batch, older.gpu, older.status) == ("", "", "diverged")


@pytest.mark.parametrize(
    "change",
    [{"schema": "1"}, {"schema": 0}, {"status": "odd"}, {"metrics": [1]}, {"spec": None}],
)
def test_line_that_is_no_row_is_told_as_damaged(tmp_path: Path, change: dict[str, object]) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.append(EndRow("a", "finished"))
        ledger.append(EndRow("b", "finished"))
    first, second = ledger.path.read_text().splitlines()
    ledger.path.write_text(f"{json.dumps(json.loads(first) | change)}\n{second}\n")
    history = Ledger.read(tmp_path)
    assert set(history.ends) == {"b"}
    assert history.damaged == (f"{ledger.path.name}:1",)


def test_row_of_a_newer_schema_is_refused_by_file_and_number_and_left_as_it_is(
    tmp_path: Path,
) -> None:
    made = made_plan(tmp_path)
    with Ledger.open(tmp_path) as ledger:
        ledger.append(EndRow("a", "finished"))
    newer = '{"event":"paused","schema":2,"trial":"in words of its own"}\n'
    before = ledger.path.read_text() + newer
    ledger.path.write_text(before)
    told = rf"^store=.*: {ledger.path} holds rows of schema 2, this version reads up to 1: "
    with pytest.raises(LedgerError, match=told):
        Ledger.read(tmp_path)
    with pytest.raises(LedgerError, match=told):  # whatever reads the store says so
        dry_run(made, Options())
    assert ledger.path.read_text() == before
    assert [path.name for path in (tmp_path / "ledger").iterdir()] == [ledger.path.name]
    assert config.load_store([f"store={tmp_path}"]) == str(tmp_path)


@pytest.mark.parametrize(
    "broken",
    [
        {"seed": 0},
        {"arm": 3},
        {"seed": "0"},
        {"seed": True},
        {"method": "ft_m"},
        {"protocol": None},
        {"published": []},
    ],
)
def test_read_when_a_spec_is_none_then_its_line_is_damaged(
    tmp_path: Path, broken: dict[str, object]
) -> None:
    whole = made_plan(tmp_path).trials[0].to_dict()
    end = {"event": "end", "status": "finished", "fingerprint": "a", "time": 1.0}
    spec = broken if broken == {"seed": 0} else {**whole, **broken}
    assert read_row({**end, "spec": whole}) is not None
    assert read_row({**end, "spec": spec}) is None
    later = read_row({**end, "spec": {**whole, "new_key": 1}})
    assert isinstance(later, EndRow)
    assert PlannedSpec.from_dict(later.spec) == made_plan(tmp_path).trials[0]


def test_read_when_the_store_is_a_file_then_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="is a file; a store is a folder"):
        Ledger.read(tmp_path / "file")
