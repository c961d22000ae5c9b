"""Writes the file of an ablation to begin with."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.settings.yaml_files import SearchSpaces

_NAME = re.compile(r"[a-z][a-z0-9_]*")

_TEMPLATE = """\
# @package _global_
# Which number of experts suits a batch of thirty edits? (Your question, on this line.)
defaults:
  - override /method: lemoe       # what runs where no arm or axis names a method
axes:                             # every combination is an arm; values are in the backbone's units
  method.num_experts: [1, 5]
  # method.edit_lr: [1.0e-3, 3.0e-3]
# where: [method.top_k <= method.num_experts]    # conditions that a combination must meet
# arms:                           # or, instead of all combinations, arms with names of their own
#   plain: {{}}
#   entity: {{method.embedding: entity}}
# paper: lemoe_table9             # a published table beside yours: analysis/table.py --list
protocol: {{kind: batch, num_edits: 30}}          # single, batch, lifelong or serial
scales:
  quick: {{seeds: [0, 1]}}
  paper: {{seeds: [0, 1, 2]}}
# python orchestrator/sweep.py ablation={name} --dry-run        the plan, and what it will cost
# python orchestrator/sweep.py --explain protocol.kind         what a key means
# search_spaces/README.md                                      every key
"""


def write_ablation(name: str, spaces: SearchSpaces) -> Path:
    """Write `ablation/NAME.yaml`, which runs as it stands.

    Raises:
        UsageError: If the name is taken, or is none for a file and a table.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"--new {name}: a name has small letters, digits and _, a letter first")
    if name in spaces.names("ablation"):
        raise UsageError(f"--new {name}: there is such an ablation; choose another name")
    path = spaces.folder / "ablation" / f"{name}.yaml"
    path.write_text(_TEMPLATE.format(name=name), "utf-8")
    return path
