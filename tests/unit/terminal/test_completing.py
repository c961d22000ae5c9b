"""What a shell is offered."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import sweep
from orchestrator.settings.yaml_files import SearchSpaces
from orchestrator.terminal.completing import keys, words

SPACES = SearchSpaces()


@pytest.mark.parametrize(
    ("begun", "offered"),
    [
        ("abl", ["ablation="]),
        ("ablation=lemoe_lo", ["ablation=lemoe_longer", "ablation=lemoe_lora"]),
        ("backbone=smol", ["backbone=smollm2_135m"]),
        ("protocol.ord", ["protocol.order=", "protocol.order_seed="]),
        ("method.lora_r", ["method.lora_rank="]),
        ("seeds=", []),
        ("nothing", []),
    ],
)
def test_words_then_groups_keys_and_names_that_begin_so(begun: str, offered: list[str]) -> None:
    assert words(begun, SPACES) == offered


def test_keys_then_those_that_can_be_explained() -> None:
    assert keys("scheduler.gr", SPACES) == ["scheduler.grace"]


def test_command_when_the_shell_asks_then_it_is_answered_and_nothing_runs(tmp_path: Path) -> None:
    line = "sweep.py ablation=lemoe_lo"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    asked |= {"_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "offered")}
    found = subprocess.run(
        [sys.executable, str(Path(sweep.__file__))], env=os.environ | asked, check=True, text=True
    )
    assert found.returncode == 0
    offered = (tmp_path / "offered").read_text("utf-8").split()
    assert offered == ["ablation=lemoe_longer", "ablation=lemoe_lora"]
