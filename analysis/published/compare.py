"""Pairs our arms with the paper's rows, and says what differs and how far the two agree.

The pairing rests on the tag `published` alone: the published values that an arm stands for. Values
are never matched by closeness here.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pandas as pd

from analysis.aggregate import Arm, Section
from analysis.errors import ProtocolMismatchError
from analysis.published.paper_numbers import PaperRow

Point: TypeAlias = tuple[Any, ...]

# The papers' words for the protocols; "sequential" is a lifelong stream of single edits.
KIND_OF_SETTING = {
    "single": "single",
    "batch": "batch",
    "lifelong": "lifelong",
    "sequential": "lifelong",
    "sequential_batch": "lifelong",
    "serial": "serial",
}
# ARM names no order of its updates; Section 4.2 scores "the last T edits with the associated latest
# answers", which are those of all T questions by rounds alone.
PUBLISHED_UPDATES = "rounds"
# LEMoE, section C.4: rows below these values are not printed in Table 9.
FILTER = {"reliability": 0.1, "generality": 0.1, "locality": 0.5}
# LLaMA2-7B, on which every published sweep of layers and ranks was run.
_SHAPES = {"method.edit_layer": 32, "method.lora_rank": 4096}
_LABELLED = ("arm", "method")  # swept keys that the name of an arm already tells
_SAME = {
    **{"wikicf": "wikicounterfact", "slkewikicf": "wikicounterfact", "slkezsre": "zsre"},
    "selfcheckgpt": "hallucination",
}
_ROUNDING = 1e-9  # 3/30 must pass a threshold of .1 whatever the order of summation
_SYMBOLS = {
    "method.edit_layer": "layer",
    "method.lora_rank": "rank",
    "method.num_experts": "experts",
}


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation; None if it is not defined (under 3 pairs, or a constant)."""

    value: float | None
    num_pairs: int


@dataclass(frozen=True)
class Agreement:
    """How many cells pass the published filter in our runs, and how many the paper prints."""

    both: int
    ours_only: int
    paper_only: int
    neither: int

    @property
    def num_cells(self) -> int:
        """Cells that were compared."""
        return self.both + self.ours_only + self.paper_only + self.neither

    @property
    def rate(self) -> float | None:
        """Share of cells on which the two agree; None without cells."""
        return (self.both + self.neither) / self.num_cells if self.num_cells else None


def published_points(arm: Arm, axes: Sequence[str]) -> tuple[Point, ...]:
    """The published cells that `arm` stands for, one value per axis, in the order of `axes`.

    An axis given in our own units has no entry in `published`: its own value counts, but for layers
    and ranks only on a backbone of the published shape. An arm without a published value on one of
    the axes stands for no cell.
    """
    values = []
    for axis in axes:
        is_ours = axis in arm.swept and is_in_published_units(arm, axis)
        values.append(arm.published.get(axis, [arm.swept[axis]] if is_ours else []))
    return tuple(itertools.product(*values))


def is_in_published_units(arm: Arm, axis: str) -> bool:
    """Whether an arm's own value means what a published one does: layers on a backbone as deep."""
    return _SHAPES.get(axis, _shape(arm, axis)) == _shape(arm, axis)


def ours_at(arm: Arm, axes: Iterable[str]) -> str:
    """Our own values that differ from the published ones, such as `layer 9/16, rank 8/128`.

    Layers are given over the number of layers, ranks over the width; swept keys that are no axis of
    the table follow as `name=value`; `the same` when there is nothing to say.
    """
    axes = tuple(axes)
    parts = []
    for axis in axes:
        own = arm.swept.get(axis, arm.protocol.get(axis.removeprefix("protocol.")))
        if own is None or arm.published.get(axis, [own]) == [own]:
            continue
        total = f"/{_shape(arm, axis)}" if _shape(arm, axis) else ""
        parts.append(f"{_SYMBOLS.get(axis, axis.split('.')[-1])} {own}{total}")
    further = [key for key in arm.swept if key not in (*axes, *_LABELLED)]
    parts += [f"{key.removeprefix('method.')}={arm.swept[key]}" for key in further]
    return ", ".join(parts) or "the same"


def comparable(
    found: Sequence[Section], paper: Sequence[PaperRow], table: str
) -> tuple[tuple[Section, ...], tuple[str, ...]]:
    """The sections measured under the paper's kind of protocol, and a note on each one left out.

    Raises:
        ProtocolMismatchError: If no section has the paper's kind.
    """
    kinds = sorted({KIND_OF_SETTING[row.setting] for row in paper})
    fitting: list[Section] = []
    others: Counter[str] = Counter()
    for section in found:
        found_kinds = [_kind(section, arm) for arm in section.arms]
        pairs = zip(section.arms, found_kinds, strict=True)
        kept = tuple(arm for arm, kind in pairs if kind in kinds)
        others.update(kind for kind in found_kinds if kind not in kinds)
        if kept:
            is_whole = len(kept) == len(section.arms)
            fitting.append(section if is_whole else replace(section, arms=kept))
    notes = tuple(
        f"left out: {count} arms with protocol.kind={kind}; the paper's is {' or '.join(kinds)}"
        for kind, count in others.items()
    )
    if found and not fitting:
        ours = ", ".join(sorted(others))
        raise ProtocolMismatchError(
            f"{table} was published with protocol.kind={' or '.join(kinds)}, the runs have "
            f"protocol.kind={ours}; the two are not comparable"
        )
    return tuple(fitting), notes


def _kind(section: Section, arm: Arm) -> str:
    return str(section.protocol.get("kind", arm.protocol.get("kind")))


def same_name(ours: str, printed: str) -> bool:
    """Whether two names differ by spelling only, such as llama2_7b and LLaMA2-7B.

    ARM's data sets of serial editing, sLKE-ZsRE and sLKE-WikiCF, are those of plain editing, asked
    in another protocol.
    """
    return plain(ours) == _SAME.get(plain(printed), plain(printed))


def plain(name: str) -> str:
    """`name` in lower case, its letters and digits alone; 1b1 is read as 1.1B."""
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    return re.sub(r"(\d)b(\d)", r"\1\2b", letters)


def differences(section: Section, paper: Sequence[PaperRow]) -> tuple[str, ...]:
    """How backbone, data set, size and order of updates differ from the paper's, both named."""
    context, found = section.context, []
    for key, column in (("backbone", "model"), ("dataset", "dataset")):
        printed = sorted({str(getattr(row, column)) for row in paper})
        if not any(same_name(context[key], name) for name in printed):
            found.append(f"{key}: ours {context[key]}, paper {', '.join(printed)}")
    for key, column in (("num_edits", "num_edits"), ("edit_batch_size", "batch_size")):
        ours = {arm.protocol[key] for arm in section.arms if arm.protocol.get(key) is not None}
        printed_counts = {getattr(row, column) for row in paper} - {None}
        if ours and printed_counts and ours != printed_counts:
            found.append(f"protocol.{key}: ours {_listed(ours)}, paper {_listed(printed_counts)}")
    if orders := update_orders(section):
        found.append(
            f"protocol.update_order: ours {_listed(orders)}, paper {PUBLISHED_UPDATES} as read out "
            "of its Section 4.2"
        )
    return tuple(found)


def update_orders(section: Section) -> tuple[str, ...]:
    """Orders of the updates of its serial streams, other than the one read out of the paper.

    A protocol that names none has that one.
    """
    serial = [arm.protocol for arm in section.arms if arm.protocol.get("kind") == "serial"]
    found = {str(protocol.get("update_order", PUBLISHED_UPDATES)) for protocol in serial}
    return tuple(sorted(found - {PUBLISHED_UPDATES}))


def spearman(pairs: Iterable[tuple[float, float]]) -> Correlation:
    """Spearman's rank correlation over (ours, paper) pairs; ties share their mean rank."""
    kept = list(pairs)
    values = pd.DataFrame(kept, columns=["ours", "paper"])
    if len(kept) < 3 or values.nunique().min() == 1:
        return Correlation(None, len(kept))
    return Correlation(float(values.corr(method="spearman").loc["ours", "paper"]), len(kept))


def passes_filter(arm: Arm) -> bool | None:
    """Whether the arm's means pass the filter of LEMoE Table 9; None where a mean is missing."""
    if not set(FILTER) <= set(arm.scores):
        return None
    return all(passes(name, arm.scores[name].mean) for name in FILTER)


def passes(name: str, value: float) -> bool:
    """Whether one score is not below the filter's number for it."""
    return value >= FILTER[name] - _ROUNDING


def agreement(cells: Iterable[tuple[Point, Arm]], printed: Iterable[Point]) -> Agreement:
    """Counts published cells by whether our arm passes the filter and the paper prints them.

    A cell that several arms stand for counts once for each.
    """
    there = set(printed)
    verdicts = [(passes_filter(arm), point in there) for point, arm in cells]
    return Agreement(
        both=verdicts.count((True, True)),
        ours_only=verdicts.count((True, False)),
        paper_only=verdicts.count((False, True)),
        neither=verdicts.count((False, False)),
    )


def _shape(arm: Arm, axis: str) -> int | None:
    """What a value on `axis` is relative to: the depth for layers, the width for ranks."""
    return {"method.edit_layer": arm.num_layers, "method.lora_rank": arm.hidden_size}.get(axis)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in sorted(values))
