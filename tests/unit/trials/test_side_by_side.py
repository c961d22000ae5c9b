"""Edits that are each rolled back are learned side by side, and score as one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trials.test_loop import RELIABILITY, make_loop
from trainables.backbones.loading import load_backbone
from trainables.interfaces import EditMethod
from trainables.states import read_state, write_state

SINGLE = [[2], [0], [3], [1]]


@pytest.mark.parametrize("stops_at", [None, 0.1, 0.5, 0.6])
def test_single_edits_side_by_side_score_as_one_by_one(
    stops_at: float | None,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also with a rung, and in another process behind it, within a group or between two."""

    def run(together: int, stops_at: float | None = None) -> tuple[dict[str, Any], Any]:
        backbone = load_backbone(checkpoints["llama"])
        made = make_loop(backbone, tmp_path, SINGLE, is_rolled_back=True)
        made.method.most_side_by_side = together  # type: ignore[attr-defined]
        monkeypatch.setattr(made, "_make_method", _with(made._make_method, together))
        if stops_at is not None:
            rung = made.run(stops_at, RELIABILITY)
            assert rung["progress"] == pytest.approx(stops_at, abs=0.03)
            assert rung["edits_seen"] == math.ceil(4 * stops_at)
            write_state(tmp_path / "state", made.state())
            backbone = load_backbone(checkpoints["llama"])
            made = make_loop(backbone, tmp_path, SINGLE, is_rolled_back=True)
            monkeypatch.setattr(made, "_make_method", _with(made._make_method, together))
            state = read_state(tmp_path / "state")
            assert state is not None
            made.load(state)
        row = made.run()
        return (
            {k: v for k, v in row.items() if not k.endswith("seconds")},
            made.probe_scores()["final"],
        )

    row, scores = run(4, stops_at)
    own_row, own_scores = run(1)
    assert scores == own_scores
    assert row == pytest.approx(own_row, abs=1e-5)
    assert row["num_steps"] == 80


def _with(make: Any, together: int) -> Any:
    def made() -> EditMethod:
        method = make()
        method.most_side_by_side = together
        return method  # type: ignore[no-any-return]

    return made
