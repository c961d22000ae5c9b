"""What the files under `search_spaces/` say of the papers.

Which shipped ablations answer a published table, what they ask, and where methods deviate.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "search_spaces" / "ablation"
_DEVIATIONS = FOLDER.parent / "deviations.yaml"


@dataclass(frozen=True)
class Deviation:
    """Settings that a paper states for a method and that no run of it here has, and why."""

    paper: str
    method: str
    settings: tuple[str, ...]
    why: str


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


def deviations_of(ran: Mapping[str, Set[str]], file: Path = _DEVIATIONS) -> tuple[Deviation, ...]:
    """Where methods deviate from the text of the papers that they were run for.

    Args:
        ran: Methods that ran, by paper (`lemoe`).
        file: `deviations.yaml`.
    """
    listed = yaml.safe_load(file.read_text("utf-8"))["deviations"]
    return tuple(
        Deviation(each["paper"], each["method"], tuple(each["settings"]), each["why"])
        for each in listed
        if (methods := ran.get(each["paper"]))
        and (each.get("concerns") == "all" or methods & set(each.get("concerns", ())))
    )


@cache
def _papers(folder: Path) -> dict[str, tuple[str, ...]]:
    """The tables that each ablation answers."""
    found = {}
    for file in sorted(folder.glob("*.yaml")):
        papers = (yaml.safe_load(file.read_text("utf-8")) or {}).get("paper") or ()
        found[file.stem] = (papers,) if isinstance(papers, str) else tuple(papers)
    return found
