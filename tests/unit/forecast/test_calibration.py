from __future__ import annotations

import json
import socket
from pathlib import Path

from orchestrator.forecast.calibration import keep_speed, known_speed
from orchestrator.forecast.estimate import CPU_FLOPS


def test_known_speed_when_nothing_was_measured_then_the_usual(tmp_path: Path) -> None:
    assert known_speed(tmp_path) == CPU_FLOPS
    (tmp_path / "machine.json").write_text("[broken")
    assert known_speed(tmp_path) == CPU_FLOPS


def test_keep_speed_when_this_host_is_new_then_it_is_measured_beside_the_others(
    tmp_path: Path,
) -> None:
    (tmp_path / "machine.json").write_text(json.dumps({"another": 1.0}))
    keep_speed(tmp_path)
    kept = json.loads((tmp_path / "machine.json").read_text())
    assert kept["another"] == 1.0
    assert known_speed(tmp_path) == kept[socket.gethostname()]
    assert 1e8 < known_speed(tmp_path) < 1e13  # a thread of any machine


def test_keep_speed_when_this_host_is_known_then_it_is_not_measured_again(tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text(json.dumps({socket.gethostname(): 7.0}))
    keep_speed(tmp_path)
    assert known_speed(tmp_path) == 7.0
