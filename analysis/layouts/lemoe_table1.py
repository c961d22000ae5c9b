"""LEMoE Table 1, its ZsRE columns: lifelong editing, by method and number of edits T."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from analysis.aggregate import Arm, Section
from analysis.compare import plain, same_name, spearman
from analysis.layouts.layout import (
    NOT_IN_PAPER,
    SCORES,
    Body,
    Layout,
    correlations,
    entries,
    score_pairs,
)
from analysis.paper_numbers import PaperRow
from analysis.render import Entry, Row

EDITS = "protocol.num_edits"
_PRINTED_AS = {"memoe_v1": "MEMoE"}  # others differ from the paper's name by spelling only


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """A row per method of the paper, those that we did not run included; further methods below."""
    paper = _block(section, paper)
    printed = {(plain(row.method), row.num_edits): row for row in paper}
    ours: dict[tuple[str, int], list[Arm]] = defaultdict(list)
    for arm in section.arms:
        for edits in _columns(arm):
            ours[_method(arm), edits].append(arm)
    counts = sorted({row.num_edits or 0 for row in paper} | {edits for _, edits in ours})
    names = {plain(row.method): row.method_printed for row in paper}
    names |= {_method(arm): arm.method for arm in section.arms if _method(arm) not in names}
    rows = []
    for key, name in names.items():
        rows += _method_rows(key, name, counts, ours, printed)
    heads = ((edits, score) for edits in counts for score in SCORES)
    return Body(
        labels=("Method",),
        scores={f"{score}_t{edits}": f"T={edits} {SCORES[score]}" for edits, score in heads},
        rows=tuple(rows),
        paper=tuple(paper),
        notes=tuple(_sizes(edits, ours) for edits in counts if any(k[1] == edits for k in ours)),
        footer=tuple(_ranks(edits, ours, printed) for edits in counts),
    )


def _block(section: Section, paper: Sequence[PaperRow]) -> tuple[PaperRow, ...]:
    """The ZsRE rows of the model that is our backbone, or else of the first model."""
    rows = [row for row in paper if row.dataset == "ZsRE"]
    models = dict.fromkeys(row.model for row in rows)
    ours = section.context["backbone"]
    model = next((name for name in models if same_name(ours, name)), next(iter(models)))
    return tuple(row for row in rows if row.model == model)


def _method(arm: Arm) -> str:
    return plain(_PRINTED_AS.get(arm.method, arm.method))


def _columns(arm: Arm) -> list[int]:
    return [int(edits) for edits in arm.published.get(EDITS, [arm.protocol["num_edits"]])]


def _method_rows(
    key: str,
    name: str,
    counts: Sequence[int],
    ours: Mapping[tuple[str, int], Sequence[Arm]],
    printed: Mapping[tuple[str, int | None], PaperRow],
) -> list[Row]:
    columns = [ours.get((key, edits), ()) for edits in counts]
    height = max(1, *map(len, columns))
    rows = []
    for index in range(height):
        cells: list[Entry] = []
        arms = [column[index] if index < len(column) else None for column in columns]
        for edits, arm in zip(counts, arms, strict=True):
            cells += entries(arm, printed.get((key, edits)), NOT_IN_PAPER)
        own = next((arm.name for arm in arms if arm), "")
        rows.append(Row((name if height == 1 else f"{name} ({own})",), tuple(cells)))
    return rows


def _sizes(edits: int, ours: Mapping[tuple[str, int], Sequence[Arm]]) -> str:
    arms = [arm for (_, count), found in ours.items() if count == edits for arm in found]
    sizes = sorted({(arm.protocol["num_edits"], arm.protocol["edit_batch_size"]) for arm in arms})
    ours_are = " or ".join(f"{total} edits in batches of {size}" for total, size in sizes)
    return f"columns T={edits}: ours {ours_are}"


def _ranks(
    edits: int,
    ours: Mapping[tuple[str, int], Sequence[Arm]],
    printed: Mapping[tuple[str, int | None], PaperRow],
) -> str:
    pairs = [
        (arm, printed[key, count])
        for (key, count), arms in ours.items()
        for arm in arms
        if count == edits and (key, count) in printed
    ]
    found = {name: spearman(score_pairs(pairs, name)) for name in SCORES}
    return f"Spearman over the methods that both have, T={edits}: {correlations(found)}"


LAYOUT = Layout(
    question="LEMoE Table 1 (ZsRE): lifelong editing, by method and number of edits",
    arrange=arrange,
    varying=("num_edits", "edit_batch_size", "num_batches", "order"),
)
