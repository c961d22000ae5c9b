from __future__ import annotations

import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import LedgerError
from orchestrator.store.ledger import Ledger, Others
from orchestrator.store.ledger_rows import CheckpointRow, EndRow


def end(fingerprint: str, status: str = "finished", **more: Any) -> EndRow:
    return EndRow(fingerprint, status, **more)


def test_read_when_there_is_no_store_then_the_history_is_empty(tmp_path: Path) -> None:
    history = Ledger.read(tmp_path / "absent")
    assert (history.ends, history.checkpoints, history.settled()) == ({}, {}, set())


def test_read_when_two_drivers_wrote_then_their_rows_are_merged_by_time(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as first, Ledger.open(tmp_path) as second:
        assert first.path != second.path
        second.append(CheckpointRow("a", {"rung": 1}, 1.0))
        first.append(CheckpointRow("a", {"rung": 2}, 2.0))
        second.append(end("a", "failed", time=5.0))
        first.append(end("b", "diverged", time=7.0))
        second.append(end("b", "finished", time=8.0))
        first.append(end("a", "finished", time=9.0))
    history = Ledger.read(tmp_path)
    assert {name: row.status for name, row in history.ends.items()} == {
        "a": "finished",
        "b": "finished",
    }
    assert [row.values["rung"] for row in history.checkpoints["a"]] == [1, 2]
    assert history.damaged == ()


def test_settled_when_asked_to_reopen_then_only_those_come_back(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        for status in ("finished", "failed", "diverged", "stopped"):
            ledger.append(end(status, status))
        ledger.append(end("cut short", "stopped", stop_reason="interrupted"))
        ledger.append(CheckpointRow("running"))
    history = Ledger.read(tmp_path)
    assert history.settled() == {"finished", "failed", "diverged", "stopped"}
    assert history.settled(retry_failed=True) == {"finished", "diverged", "stopped"}
    assert history.settled(complete_stopped=True) == {"finished", "failed", "diverged"}
    assert history.settled(retry_failed=True, complete_stopped=True) == {"finished", "diverged"}


def test_read_when_the_last_line_is_torn_then_it_is_ignored(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.append(end("a"))
        ledger.append(end("b"))
    content = ledger.path.read_bytes()
    for kept in range(len(content) + 1):  # killed after any byte
        ledger.path.write_bytes(content[:kept])
        history = Ledger.read(tmp_path)
        assert len(history.ends) == content[:kept].count(b"\n")
        assert history.damaged == ()


def test_read_when_a_line_in_the_middle_is_broken_then_it_is_reported(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        for name in "abc":
            ledger.append(end(name))
    lines = ledger.path.read_text().splitlines()
    lines[1] = lines[1][:9]
    lines.insert(2, json.dumps({"event": "end", "fingerprint": "x", "time": 1, "status": "odd"}))
    ledger.path.write_text("\n".join([*lines, "\x00\xff"]) + "\n")
    history = Ledger.read(tmp_path)
    assert set(history.ends) == {"a", "c"}
    assert history.damaged == tuple(f"{ledger.path.name}:{line}" for line in (2, 3, 5))


@pytest.mark.parametrize(
    "broken", ["nonsense", '{"event":"end","metrics":{"a":1', "[1,2]", "1,2", "null"]
)
def test_read_when_lines_among_thousands_are_broken_then_each_is_named_and_the_rest_is_read(
    tmp_path: Path, broken: str
) -> None:
    with Ledger.open(tmp_path) as ledger:
        for number in range(2100):
            ledger.append(end(f"{number}", metrics={"loss": number}))
    lines = ledger.path.read_text().splitlines()
    lines[700] = lines[1999] = broken
    lines[1200] = ""  # says nothing, and is no damage
    ledger.path.write_text("\n".join([*lines, "torn"]))
    history = Ledger.read(tmp_path)
    assert history.damaged == tuple(f"{ledger.path.name}:{number}" for number in (701, 2000))
    there = [number for number in range(2100) if number not in (700, 1200, 1999)]
    assert [row.metrics["loss"] for row in history.ends.values()] == there


def test_read_then_what_rows_have_in_common_is_kept_once(tmp_path: Path) -> None:
    told = {"provenance": {"commit": "c"}, "resolved": {"backbone_fingerprint": "f"}}
    with Ledger.open(tmp_path) as ledger:
        for name, seconds in (("a", 1.0), ("b", 2.0)):
            ledger.append(end(name, **told, seconds=seconds))
        ledger.append(end("c", **told | {"provenance": {"commit": "d"}}))
    ends = Ledger.read(tmp_path).ends
    assert ends["a"].provenance is ends["b"].provenance
    assert ends["a"].resolved is ends["c"].resolved
    assert (ends["c"].provenance, ends["b"].seconds) == ({"commit": "d"}, 2.0)


def test_append_when_a_number_is_not_finite_then_it_is_null(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.append(end("a", metrics={"loss": float("nan"), "curve": [1.0, float("inf")]}))
    row = Ledger.read(tmp_path).ends["a"]
    assert row.metrics == {"loss": None, "curve": [1.0, None]}
    assert abs(row.time - time.time()) < 60


def test_append_when_the_status_is_unknown_then_it_is_refused(tmp_path: Path) -> None:
    with (
        Ledger.open(tmp_path) as ledger,
        pytest.raises(ValueError, match=r"'odd'; it must be one of"),
    ):
        ledger.append(end("a", "odd"))
    assert not ledger.path.exists()  # nothing was written: no empty segment stays


def test_open_when_the_store_is_a_file_then_one_line_names_it(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(LedgerError, match=r"store=.*results: cannot write .*ledger"):
        Ledger.open(tmp_path / "results")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is there on Linux alone")
def test_append_when_the_disk_is_full_then_one_line_names_the_segment() -> None:
    with (
        open("/dev/full", "wb", buffering=0) as file,
        pytest.raises(LedgerError, match="cannot append to /dev/full: No space left"),
    ):
        Ledger(Path("/dev/full"), file).append(end("a"))


def test_append_when_the_row_before_was_cut_off_then_the_next_one_stands_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger" / "one.jsonl"
    path.parent.mkdir()
    with path.open("wb", buffering=0) as file:
        ledger = Ledger(path, file)
        ledger.append(end("a"))
        limit = path.stat().st_size + 100
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # a disk that is full soon
        try:
            with pytest.raises(LedgerError, match="cannot append"):
                ledger.append(end("b", error="x" * limit))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        ledger.append(end("c"))  # there is room again
    history = Ledger.read(tmp_path)
    assert set(history.ends) == {"a", "c"}
    assert history.damaged == ("one.jsonl:2",)


def test_row_when_the_clock_was_set_back_then_still_comes_last(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as first:
        first.append(end("a", status="failed", time=2_000.0))
        first.append(end("b", status="failed", time=1_000.0))
    history = Ledger.read(tmp_path)
    assert history.last_time > 2_000.0
    with Ledger.open(tmp_path, history.last_time) as second:
        second.append(end("a", status="finished", time=500.0))
    merged = Ledger.read(tmp_path)
    assert merged.ends["a"].status == "finished"
    assert merged.ends["b"].time > merged.ends["a"].time - 1.0


def test_others_when_read_then_without_the_own_rows_and_anew_only_where_they_have_grown(
    tmp_path: Path,
) -> None:
    with Ledger.open(tmp_path) as own, Ledger.open(tmp_path) as other:
        others = Others(tmp_path, own.path)
        own.append(end("mine"))
        other.append(end("theirs"))
        found = others.read()
        assert set(found.ends) == {"theirs"}
        own.append(end("mine too"))
        assert others.read() is found
        other.append(end("theirs too"))
        assert set(others.read().ends) == {"theirs", "theirs too"}
