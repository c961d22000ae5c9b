from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.settings.yaml_files import SearchSpaces
from orchestrator.terminal import listing
from orchestrator.terminal.backbones import backbones
from tests.unit.terminal.shown import row, shown


def test_ablations_when_listed_then_each_has_question_table_and_trials(folder: Path) -> None:
    lines = shown(listing.ablations(SearchSpaces(folder)))
    # quick: 9 arms x 2 seeds; paper: rank 2048 x 3 pairs x 2 layers x 1 seed
    assert row(lines, "ranks") == [
        *["ranks", "From", "which", "rank", "on?", "lemoe_table9", "18", "6"]
    ]
    assert row(lines, "search")[-2:] == ["11", "11"]  # 5 + 3 x 2
    assert row(lines, "methods")[-2:] == ["6", "9"]


def test_ablations_when_one_is_broken_then_the_others_are_still_listed(folder: Path) -> None:
    (folder / "method/multi.yaml").unlink()
    lines = shown(listing.ablations(SearchSpaces(folder)))
    assert row(lines, "methods")[-2:] == ["-", "-"]
    assert any("cannot run: method=multi: no such name" in line for line in lines)
    assert row(lines, "ranks")[-2:] == ["18", "6"]


def test_backbones_when_listed_then_each_says_what_it_still_needs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    big = (folder / "backbone/big.yaml").read_text()
    (folder / "backbone/other.yaml").write_text(
        big.replace("name: big", "name: other").replace("revision: abc", "revision: null")
    )
    (folder / "backbone/wheel.yaml").write_text(
        "name: wheel\nmodel: 'packaged:w'\nrevision: null\ndtype: float32\nfamily: llama\n"
        "num_layers: 4\nhidden_size: 32\nffn_size: 48\nmemory_gib: null\ndequantised_from: Q4_1\n"
        f"package: {{name: w, version: '1', file: w/w.gguf, sha256: {'f' * 64}}}\n"
    )
    wheel = (folder / "backbone/wheel.yaml").read_text()
    (folder / "backbone/torn.yaml").write_text(
        wheel.replace("name: wheel", "name: torn").replace("f" * 64, "abc")
    )
    lines = shown(backbones(SearchSpaces(folder)))
    assert row(lines, "tiny") == ["tiny", "embedded:tiny", "llama", "16", "x", "128"]
    assert row(lines, "big")[1:] == ["org/big", "llama", "32", "x", "4096"]
    assert " ".join(row(lines, "other")).endswith(
        "x 4096 needs revision: add backbone.revision=COMMIT"
    )
    assert "dequantised from Q4_1; w 1 is not in the cache" in " ".join(row(lines, "wheel"))
    assert "cannot run: backbone.package.sha256=abc: must be" in " ".join(row(lines, "torn"))
