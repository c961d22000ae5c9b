"""What goes wrong with trials, files, clocks and second drivers, through the command itself."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.commands import (
    TIMEOUT_SECONDS,
    Commands,
    assert_agree,
    copy_database,
    end,
    own_file_system,
    wait_until,
)

ONE_METHOD = ("ablation=smoke", "backbone=facts_tiny", "protocol.num_edits=4", "workers=1")
EDITING = (*ONE_METHOD, "method=ft_m", "axes={method.edit_lr:[1e-3,2e-3,3e-3]}")
UNTOUCHED = (*ONE_METHOD, "axes.method=[no_edit]")
DAY_SECONDS = 86_400.0

pytestmark = pytest.mark.slow


def test_second_driver_takes_what_the_first_does_not_hold_and_the_rest_when_it_is_gone(
    commands: Commands,
) -> None:
    slow = (*EDITING, "method.num_steps=200", "method.stop_loss=0")
    first = commands.start(*slow, "seeds=[0,1]")
    second = None
    try:
        # Between two trials of about a second each, when nothing is being written.
        wait_until(lambda: len(commands.ends()) == 2 == len(commands.runs()), first)
        first.send_signal(signal.SIGSTOP)  # it lives, and holds four more trials for ever
        before = commands.ends()
        second = commands.start(*slow, "seeds=[0,1,2]")
        assert second.stderr is not None
        told = next((line for line in second.stderr if "are held by" in line), "")
        assert told.split(":")[-1].strip().startswith("4 trials are held by process")
        assert f"process {first.pid} on" in told
        assert {row["spec"]["seed"] for row in commands.ends()[len(before) :]} == {2}
        assert len(commands.ends()) == 2 + 3  # what it held back from was not run
        first.kill()
        first.wait()
        assert second.wait(timeout=TIMEOUT_SECONDS) == 0
    finally:
        end(first)
        if second is not None:
            end(second)

    times_ended = Counter(row["fingerprint"] for row in commands.ends())
    assert len(times_ended) == 9
    assert set(times_ended.values()) == {1}
    assert {row["row_id"] for row in before} <= {row["row_id"] for row in commands.ends()}
    assert {row["status"] for row in commands.ends()} == {"finished"}
    assert_agree(commands)


def test_trial_that_hangs_has_failed_after_its_time_and_the_others_finish(
    commands: Commands,
) -> None:
    typed = (*ONE_METHOD, "method=ft_m", "method.stop_loss=0", "seeds=[0]")
    typed = (*typed, "axes={method.num_steps:[5,1000000000]}", "max_trial_seconds=15")

    done = commands.sweep(*typed)

    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    by_steps = {row["spec"]["swept"]["method.num_steps"]: row for row in commands.ends()}
    assert by_steps[5]["status"] == "finished"
    hung = by_steps[1_000_000_000]
    assert (hung["status"], hung["error"]) == (
        "failed",
        "TrialOverdueError: took longer than max_trial_seconds=15",
    )
    assert 15 <= hung["seconds"] < 45
    assert f"1 x {hung['error']}" in done.stdout
    assert_agree(commands)

    again = commands.sweep(*typed)  # it is settled: another 15 seconds would end the same way
    assert again.returncode == 1
    assert len(commands.ends()) == 2


def test_ledger_with_a_torn_last_line_then_only_that_trial_is_run_again(
    commands: Commands,
) -> None:
    assert commands.sweep(*UNTOUCHED, "seeds=[0,1]").returncode == 0
    whole = commands.ends()
    (segment,) = (commands.store / "ledger").glob("*.jsonl")
    content = segment.read_bytes()
    segment.write_bytes(content[:-40])

    again = commands.sweep(*UNTOUCHED, "seeds=[0,1]")

    assert again.returncode == 0, again.stderr
    assert "1 trials run (1 finished), 1 settled before" in again.stdout
    assert segment.read_bytes() == content[:-40]  # nothing of the past is rewritten
    ends = commands.ends()
    assert [row["row_id"] for row in ends if row["row_id"] == whole[0]["row_id"]]
    assert {row["fingerprint"] for row in ends} == {row["fingerprint"] for row in whole}
    assert ends[-1]["metrics"].items() >= _scores(whole[1]).items()
    assert commands.sweep("--status").stdout == "2 finished\n"
    assert_agree(commands)


def test_clock_set_back_then_later_results_still_take_the_place_of_earlier_ones(
    commands: Commands,
) -> None:
    failed = commands.sweep(*UNTOUCHED, "seeds=[0,1]", "max_trial_seconds=0.001")
    assert failed.returncode == 1, failed.stderr
    (segment,) = (commands.store / "ledger").glob("*.jsonl")
    rows = [json.loads(line) for line in segment.read_text().splitlines()]
    ahead = [{**row, "time": row["time"] + DAY_SECONDS} for row in rows]  # until it was set back
    segment.write_text("".join(json.dumps(row) + "\n" for row in ahead))
    assert commands.sweep("--status").stdout.startswith("2 failed\n")

    retried = commands.sweep(*UNTOUCHED, "seeds=[0,1]", "--retry-failed")

    assert retried.returncode == 0, retried.stderr
    assert commands.sweep("--status").stdout == "2 finished\n"
    again = commands.sweep(*UNTOUCHED, "seeds=[0,1]", "--retry-failed")
    assert "nothing left to do), 2 settled before" in again.stdout
    assert Counter(row["status"] for row in commands.ends()) == {"failed": 2, "finished": 2}
    assert_agree(commands)


def test_broken_files_of_the_cache_are_noticed_and_made_anew(
    commands: Commands, tmp_path: Path
) -> None:
    shutil.copytree(commands.cache / "editing-sweeps", tmp_path / "cache" / "editing-sweeps")
    commands = replace(commands, cache=tmp_path / "cache")
    artefacts = tmp_path / "cache" / "editing-sweeps" / "artefacts"
    shutil.rmtree(artefacts, ignore_errors=True)
    assert commands.sweep(*UNTOUCHED, "seeds=[0,1]").returncode == 0
    metas = sorted(artefacts.glob("answers-*/meta.json"))
    assert len(metas) == 2  # the untouched backbone's answers on the edits of each seed
    good = [json.loads(meta.read_text()) for meta in metas]
    # One still reads well, with other answers in it; of the other a half was written.
    wrong = [[number + 1 for number in answer] for answer in good[0]["values"]["answers"]]
    changed = {**good[0], "values": {**good[0]["values"], "answers": wrong}}
    metas[0].write_text(json.dumps(changed))
    metas[1].write_bytes(metas[1].read_bytes()[:100])

    again = commands.sweep(*UNTOUCHED, "seeds=[0,1]", "--fresh")

    assert again.returncode == 0, again.stderr
    first, second = commands.ends()[:2], commands.ends()[2:]
    assert {row["fingerprint"]: _scores(row) for row in first} == {
        row["fingerprint"]: _scores(row) for row in second
    }
    assert {row["metrics"]["locality_far.token.final"] for row in second} == {1.0}
    mended = [json.loads(meta.read_text()) for meta in metas]
    assert [each["values"] for each in mended] == [each["values"] for each in good]
    assert_agree(commands)


@pytest.fixture
def own_disk(commands: Commands, empty_database: Path) -> Iterator[Commands]:
    """The commands in a folder on a file system of its own."""
    made = replace(commands, folder=commands.folder / "disk")
    with own_file_system(made.folder, 64):
        copy_database(empty_database, made.store)
        yield made


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A mounted file system that takes nothing: permission bits do not stop root."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


def test_store_that_is_read_only_then_one_line_says_so_and_what_it_holds_can_be_read(
    own_disk: Commands,
) -> None:
    assert own_disk.sweep(*UNTOUCHED, "seeds=[0]").returncode == 0
    ends, table = own_disk.ends(), own_disk.table("smoke")

    with read_only(own_disk.folder):
        refused = own_disk.sweep(*UNTOUCHED, "seeds=[0,1]")
        assert own_disk.sweep("--status").stdout == "1 finished\n"
        assert own_disk.table("smoke") == table

    assert refused.returncode == 2, refused.stderr
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: store=")
    assert "Read-only file system" in line
    assert own_disk.ends() == ends
    assert own_disk.sweep(*UNTOUCHED, "seeds=[0,1]").returncode == 0
    assert len(own_disk.ends()) == 2
    assert own_disk.ends()[0] == ends[0]
    assert_agree(own_disk)


def _scores(row: dict[str, object]) -> dict[str, object]:
    """The metrics that do not depend on the time that a trial took."""
    metrics = row["metrics"]
    assert isinstance(metrics, dict)
    return {key: value for key, value in metrics.items() if key.endswith(".final")}
