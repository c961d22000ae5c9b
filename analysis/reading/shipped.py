"""Which shipped ablations answer a published table, as their files under `search_spaces/` say."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "search_spaces" / "ablation"


def ablations_for(table: str, folder: Path = FOLDER) -> tuple[str, ...]:
    """Names of the ablations whose `paper` names `table`, in alphabetical order.

    Args:
        table: Id of a published table, such as `lemoe_table9`.
        folder: Holds one file for each ablation.
    """
    return tuple(name for name, papers in _papers(folder).items() if table in papers)


def question_of(ablation: str, folder: Path = FOLDER) -> str:
    """What a shipped ablation asks; "" of one that is not shipped."""
    return str(_read(folder).get(ablation, {}).get("question") or "")


def _papers(folder: Path) -> dict[str, tuple[str, ...]]:
    """The tables that each ablation answers."""
    found = {}
    for name, values in _read(folder).items():
        papers = values.get("paper") or ()
        found[name] = (papers,) if isinstance(papers, str) else tuple(papers)
    return found


@cache
def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """The files of all shipped ablations by name."""
    files = sorted(folder.glob("*.yaml"))
    return {file.stem: yaml.safe_load(file.read_text("utf-8")) or {} for file in files}
