"""Which shipped ablations answer a published table, as their files under `search_spaces/` say."""

from __future__ import annotations

from functools import cache
from pathlib import Path

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
    """What a shipped ablation asks, on the second line of its file; "" of one not shipped."""
    path = folder / f"{ablation}.yaml"
    if ablation not in _papers(folder):  # before a path is read: the name comes out of a store
        return ""
    second = [*path.read_text("utf-8").splitlines(), "", ""][1]
    return second.lstrip("# ").strip() if second.startswith("#") else ""


@cache
def _papers(folder: Path) -> dict[str, tuple[str, ...]]:
    """The tables that each ablation answers."""
    found = {}
    for file in sorted(folder.glob("*.yaml")):
        papers = (yaml.safe_load(file.read_text("utf-8")) or {}).get("paper") or ()
        found[file.stem] = (papers,) if isinstance(papers, str) else tuple(papers)
    return found
