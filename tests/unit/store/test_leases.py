from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from orchestrator.errors import LedgerError
from orchestrator.store.leases import LEASE_SECONDS, Holder, Leases, summary
from orchestrator.store.ledger import Ledger
from orchestrator.store.ledger_rows import EndRow

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def write_lease(path: Path, trials: list[str], **changes: object) -> None:
    lease = {
        "host": "elsewhere",
        "processes": "elsewhere pid:[1]",
        "pid": 7,
        "started": 0.0,
        "beats": 1,
        "trials": trials,
    }
    path.write_text(json.dumps(lease | changes))


def nothing() -> set[str]:
    return set()


def test_claim_when_another_driver_holds_some_then_the_others_are_taken_in_order(
    tmp_path: Path,
) -> None:
    first, second = Leases(tmp_path / "a.jsonl"), Leases(tmp_path / "b.jsonl")
    try:
        assert first.claim(["p", "q", "r"], 2, nothing) == ["p", "q"]
        # both drivers are this process, which lives
        assert second.claim(["p", "q", "r", "s"], 9, nothing) == ["r", "s"]
        assert set(second.others()) == {"p", "q"}
        first.release(["p"])
        assert second.claim(["p", "q"], 9, nothing) == ["p"]
    finally:
        first.close()
        second.close()
    assert not list(tmp_path.glob("*.lease"))


def test_claim_when_a_trial_ended_meanwhile_then_it_is_not_taken(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "a.jsonl")
    try:
        assert leases.claim(["p", "q"], 9, lambda: {"p"}) == ["q"]
    finally:
        leases.close()


def test_claim_when_a_trial_ends_and_is_released_meanwhile_then_it_is_not_taken(
    tmp_path: Path,
) -> None:
    ours, theirs = Ledger.open(tmp_path), Ledger.open(tmp_path)
    first, second = Leases(ours.path), Leases(theirs.path)

    def settled() -> set[str]:
        before = Ledger.read(tmp_path).settled()  # a large ledger takes seconds
        theirs.append(EndRow("p", "finished"))
        theirs.commit()
        second.release(["p"])
        return before

    with ours, theirs:
        second.claim(["p"], 1, nothing)
        assert first.claim(["p", "q"], 9, settled) == ["q"]
        assert first.claim(["p"], 9, lambda: Ledger.read(tmp_path).settled()) == []
        first.close()
        second.close()


@pytest.mark.skipif(not BOOT_ID.exists(), reason="the system does not name its starts")
@pytest.mark.parametrize("boot", ["", " 00000000-0000-4000-8000-000000000000"])
def test_others_when_a_lease_names_another_start_or_none_then_its_counter_decides(
    tmp_path: Path, boot: str
) -> None:
    # a machine of the same name, and this one as a version wrote it that named no start
    clock = [1000.0]
    leases = Leases(tmp_path / "a.jsonl", lambda: clock[0])
    leases.beat()
    here = json.loads((tmp_path / "a.lease").read_text())
    processes = here["processes"].removesuffix(f" {BOOT_ID.read_text().strip()}") + boot
    there = {"processes": processes, "pid": 2**22 + 1, "host": here["host"]}
    write_lease(tmp_path / "b.lease", ["p"], **there)
    assert "p" in leases.others()
    assert leases.drivers() == {"a", "b"}  # so that its scratch is kept
    assert leases.claim(["p"], 1, nothing) == []
    clock[0] += LEASE_SECONDS
    assert leases.drivers() == {"a"}
    leases.close()


def test_others_when_the_process_is_gone_or_its_number_is_used_again_then_it_holds_nothing(
    tmp_path: Path,
) -> None:
    leases = Leases(tmp_path / "a.jsonl")
    leases.beat()
    here = json.loads((tmp_path / "a.lease").read_text())
    (tmp_path / "b.lease").write_text(json.dumps(here | {"trials": ["p"]}))
    (tmp_path / "c.lease").write_text(
        json.dumps(here | {"trials": ["q"], "started": here["started"] - 1})
    )
    (tmp_path / "d.lease").write_text(json.dumps(here | {"trials": ["r"], "pid": 2**22 + 1}))
    assert dict(leases.others()) == {"p": Holder(socket.gethostname(), os.getpid())}


def test_others_when_a_counter_elsewhere_stands_still_then_the_lease_ends(tmp_path: Path) -> None:
    clock = [1000.0]
    leases = Leases(tmp_path / "a.jsonl", lambda: clock[0])
    write_lease(tmp_path / "b.lease", ["p"])
    assert "p" in leases.others()
    clock[0] += LEASE_SECONDS - 1
    assert "p" in leases.others()
    write_lease(tmp_path / "b.lease", ["p"], beats=2)
    assert "p" in leases.others()  # it moved
    clock[0] += LEASE_SECONDS
    assert "p" not in leases.others()
    write_lease(tmp_path / "b.lease", ["p"], beats=3)
    assert "p" in leases.others()  # its machine only slept


def test_others_when_a_lease_is_torn_then_it_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "b.lease").write_text('{"host": "x", "tri')
    assert not Leases(tmp_path / "a.jsonl").others()


def test_claim_when_the_folder_cannot_be_written_then_says_which(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "a.jsonl")
    (tmp_path / "a.part").mkdir()  # in the way of the file, for root too
    with pytest.raises(LedgerError, match=r"cannot write .*a\.lease"):
        leases.claim(["p"], 1, nothing)


def test_summary_counts_by_driver() -> None:
    one, two = Holder("x", 1), Holder("y", 2)
    assert summary([one, two, one]) == [
        "2 trials are held by process 1 on x",
        "1 trials are held by process 2 on y",
    ]
