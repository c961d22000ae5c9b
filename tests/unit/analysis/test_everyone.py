"""All editors in one table: by protocol, and in each by their average."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import table
from tests.unit.analysis_store import Writer

BATCH = {"kind": "batch", "num_edits": 30, "num_batches": 1, "edit_batch_size": 30}
SINGLE = {"kind": "single", "num_edits": 30, "edit_batch_size": 1}
STREAM = {"kind": "lifelong", "num_edits": 100, "num_batches": 10, "edit_batch_size": 10}


def shown(store: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    assert table.main(["everyone", f"store={store}"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]


def test_editors_stand_by_protocol_and_average_with_what_an_edit_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Writer(tmp_path)
    for seed in range(3):
        for method, score in (("ft_m", 0.5), ("grace", 0.75)):
            for name, protocol in (("stream", STREAM), ("batch", BATCH), ("single", SINGLE)):
                writer.trial(
                    "everyone",
                    f"{name} {method}",
                    seed,
                    (score, score, score),
                    numbers={"edit_seconds": 60.0, "edit_state_bytes": 2.5e6},
                    method=method,
                    paper="everyone",
                    protocol=protocol,
                )
    rows = shown(tmp_path, capsys)
    assert [(row["Protocol"], row["Method"]) for row in rows] == [
        *(("single 30", "grace"), ("single 30", "ft_m")),
        *(("batch 30", "grace"), ("batch 30", "ft_m")),
        *(("stream 100", "grace"), ("stream 100", "ft_m")),
    ]
    assert rows[0]["Avg."].startswith("0.75")
    assert (
        not {"Loc. near", "Loc. far", "Portability"} & rows[0].keys()
    )  # no arm was asked for them
    assert rows[0]["Edit s"].startswith("2.000")
    assert rows[4]["Edit s"].startswith("0.600")
    assert rows[0]["MB"].startswith("2.50")


def test_table_says_that_the_training_of_networks_is_not_among_the_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"paper": "everyone", "protocol": BATCH, "numbers": {"edit_seconds": 3.0}}
    Writer(tmp_path).trial("everyone", "batch mend", 0, (0.1, 0.1, 0.1), method="mend", **given)
    assert table.main(["everyone", f"store={tmp_path}"]) == 0
    assert "without what is made once ahead of all edits: networks" in capsys.readouterr().out


def test_editor_that_failed_stands_last_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Writer(tmp_path)
    given = {"paper": "everyone", "protocol": BATCH}
    writer.trial("everyone", "batch arm", 0, method="arm", status="failed", **given)
    writer.trial("everyone", "batch rome", 0, (0.1, 0.1, 0.1), method="rome", **given)
    rows = shown(tmp_path, capsys)
    assert [row["Method"] for row in rows] == ["rome", "arm"]
    assert rows[1]["Avg."].startswith("failed 1/1")
