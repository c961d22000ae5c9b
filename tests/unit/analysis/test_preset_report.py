"""The outcome of `ablation=presets`, as a block for a backbone's file and as a table."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis import presets, table
from analysis.errors import AnalysisError
from analysis.reports.preset_report import Options, report
from tests.unit.analysis_store import BATCH, Writer

Scores = tuple[float, float, float]
LOW: dict[str, Any] = {"method.edit_lr": 0.001, "method.edit_layer": 3}
HIGH: dict[str, Any] = {"method.edit_lr": 0.02, "method.edit_layer": 5}


def write(
    store: Path, *, again: bool = True, early: bool = False, published: Scores | None = None
) -> None:
    """Two searches of two draws; on the tune part LOW is better for ft_m, HIGH for memit.

    `early`: before them another protocol, of which fewer ran again, chose HIGH for ft_m.
    `published`: what ft_m scores with its own values on the tune part.
    """
    writer = Writer(store)
    protocol = BATCH

    def trial(part: str, method: str, values: dict[str, Any], seed: int, scores: Scores) -> None:
        arm = " ".join([method, *(f"{key}={value}" for key, value in values.items())])
        writer.trial(
            *("presets", arm, seed, scores),
            method=method,
            paper="presets",
            dataset_part=part,
            swept={"method": method, **values},
            fingerprint=f"{part} {arm} {seed} {protocol['num_edits']}",
            protocol=protocol,
        )

    if early:
        protocol = BATCH | {"num_edits": 7}
        trial("tune", "ft_m", HIGH, 0, (0.9, 0.9, 0.9))
        trial("report", "ft_m", HIGH, 0, (0.9, 0.9, 0.9))
        trial("report", "ft_m", {}, 0, (0.2, 0.1, 1.0))
        protocol = BATCH
    if published is not None:
        trial("tune", "ft_m", {}, 0, published)
    trial("tune", "ft_m", LOW, 0, (0.9, 0.6, 0.9))
    trial("tune", "ft_m", HIGH, 0, (0.9, 0.5, 0.9))
    trial("tune", "memit", LOW, 0, (0.1, 0.1, 1.0))
    trial("tune", "memit", HIGH, 0, (0.2, 0.1, 1.0))
    for seed in (0, 1) if again else ():
        # On the other part, which must not choose, HIGH would be the better one of ft_m.
        trial("report", "ft_m", LOW, seed, (0.5, 0.5, 0.8))
        trial("report", "ft_m", HIGH, seed, (1.0, 1.0, 1.0))
        trial("report", "ft_m", {}, seed, (0.2, 0.1, 1.0))
        trial("report", "memit", HIGH, seed, (0.1, 0.1, 1.0))


def test_a_store_and_its_copy_then_the_presets_are_those_of_one(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    write(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    text = report("presets", [tmp_path / "one"], Options())
    assert report("presets", [tmp_path / "one", tmp_path / "copy"], Options()) == text


@pytest.mark.parametrize("early", [False, True])
def test_the_best_of_each_search_is_written_as_presets_that_can_be_read(
    tmp_path: Path, early: bool
) -> None:
    write(tmp_path, early=early)
    text = report("presets", [tmp_path], Options())
    assert yaml.safe_load(text) == {
        "presets": {
            "ft_m": {"edit_lr": 0.001, "edit_layer": 3},
            "memit": {"edit_lr": 0.02, "edit_layer": 5},
        }
    }
    lines = text.splitlines()
    assert "on facts and facts: 4 settings on part tune; commit 0123456789ab" in lines[0]
    assert "part report, 2 seeds" in lines[1]
    assert "Before editing: Rel. 0.10, Gen. 0.10, Loc. 1.00" in lines[1]
    at = lines.index("  ft_m: {edit_layer: 3, edit_lr: 0.001}")
    # (.5 + .5 + .8) / 3 = .6; (.2 + .1 + 1) / 3 = .43
    assert lines[at - 1] == (
        "  # Rel. 0.50 (0.20), Gen. 0.50 (0.10), Loc. 0.80 (1.00), Avg. 0.60 (0.43)"
    )
    at = lines.index("  memit: {edit_layer: 5, edit_lr: 0.02}")
    assert lines[at - 1] == "  # no more reliable than the backbone without any edit"
    assert "(not run)" in lines[at - 2]


@pytest.mark.parametrize(
    ("published", "is_best"),
    [((0.9, 0.6, 0.8), False), ((0.9, 0.6, 0.9), True), ((0.9, 0.7, 0.9), True)],
)
def test_published_values_that_no_draw_beats_then_none_is_written(
    tmp_path: Path, published: Scores, is_best: bool
) -> None:
    write(tmp_path, published=published)
    text = report("presets", [tmp_path], Options())
    own = {} if is_best else {"ft_m": {"edit_lr": 0.001, "edit_layer": 3}}
    expected = {**own, "memit": {"edit_lr": 0.02, "edit_layer": 5}}
    assert yaml.safe_load(text) == {"presets": expected}
    line = "  # ft_m: nothing that was drawn did better than its published values"
    assert (line in text.splitlines()) == is_best
    if is_best:  # its scores stand above, with themselves in brackets
        assert "  # Rel. 0.20 (0.20), Gen. 0.10 (0.10)" in text


def test_a_search_that_has_not_ended_chooses_nothing(tmp_path: Path) -> None:
    write(tmp_path, again=False)
    with pytest.raises(AnalysisError, match="have not come to their end"):
        report("presets", [tmp_path], Options())


def test_the_command_prints_the_block_or_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    assert presets.main([f"store={tmp_path}"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["presets"]["memit"]["edit_layer"] == 5
    for words, says in (
        ([f"store={tmp_path}", "backbone=gpt2_xl"], "backbone=facts dataset=facts"),
        ([f"store={tmp_path}", "ft_m"], "'ft_m' is no option"),
        ([f"store={tmp_path / 'none'}"], "none"),
    ):
        assert presets.main(words) == 2
        assert says in capsys.readouterr().err


def test_the_table_shows_published_values_above_the_chosen_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    assert table.main(["presets", f"store={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    rows = [line.split("|")[1:4] for line in shown.splitlines() if line.startswith("| ft_m")]
    assert [[cell.strip()[:21] for cell in row[:2]] for row in rows] == [
        ["ft_m", "published"],
        ["ft_m", "edit_layer 5, edit_lr"],
        ["ft_m", "edit_layer 3, edit_lr"],
        ["ft_m", "edit_layer 3, edit_lr"],
        ["ft_m", "edit_layer 5, edit_lr"],
    ]
