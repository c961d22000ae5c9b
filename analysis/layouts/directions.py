"""What tells the rows, or the groups of columns, of a table apart: method, variant, layer, ...

Each is a `Direction`, which says at which positions an arm of ours and a published row belong.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from analysis.aggregate import Arm
from analysis.published.compare import KIND_OF_SETTING, ours_at, plain, published_points
from analysis.published.paper_numbers import PaperRow

EDITS, QUESTIONS = "protocol.num_edits", "protocol.num_questions"


@dataclass(frozen=True)
class Position:
    """One row, or one group of columns; two are the same if their `key` is."""

    key: Hashable
    label: str = field(compare=False)


Positions: TypeAlias = Sequence[Position]


@dataclass(frozen=True)
class Direction:
    """One direction of a table: what its rows, or its groups of columns, differ in.

    Attributes:
        head: Heading of the column of labels.
        of_arm: The positions of an arm: several if it stands for several published cells, none if
            it does not belong in the table.
        of_row: The positions of a published row.
        ours: Text about an arm beside its label; None: no text.
        is_sorted: Whether rows are sorted by their keys; otherwise they keep the paper's order.
    """

    head: str
    of_arm: Callable[[Arm], Positions]
    of_row: Callable[[PaperRow], Positions]
    ours: Callable[[Arm], str] | None = None
    is_sorted: bool = False


def by_method(printed_as: Mapping[str, str] | None = None) -> Direction:
    """A position for each method; `printed_as` gives names that differ by more than spelling."""
    names = printed_as or {}

    def of_arm(arm: Arm) -> Positions:
        return (Position(plain(names.get(arm.method, arm.method)), arm.method),)

    def of_row(row: PaperRow) -> Positions:
        return (Position(plain(row.method), name_shown(row.method, row.method_printed)),)

    return Direction("Method", of_arm, of_row)


def name_shown(method: str, printed: str) -> str:
    """What a paper calls a method; not `Ours`, which beside our own runs would mean those."""
    return method if printed in ("", "Ours") else printed


def by_variant(head: str = "Variant", *, shows_method: bool = True) -> Direction:
    """A position for each variant of the paper, whose name is that of our arm.

    A published row without a variant, such as a baseline, is told apart by its method. The label is
    what the paper prints in its column of methods, unless `shows_method` is false.
    """

    def ours(arm: Arm) -> str:
        return str(arm.swept.get("arm", arm.name))

    def of_arm(arm: Arm) -> Positions:
        return (Position(plain(ours(arm)), ours(arm)),)

    def of_row(row: PaperRow) -> Positions:
        name = row.variant.rpartition("=")[2] or row.method
        shown = name_shown(row.method, row.method_printed) if row.method_printed else name
        return (Position(plain(name), shown if shows_method else name),)

    return Direction(head, of_arm, of_row, ours)


def by_key(
    key: str,
    head: str,
    of_row: Callable[[PaperRow], Any],
    *,
    prefix: str = "",
    shows_ours: bool = True,
) -> Direction:
    """A position for each published value of a swept key; labels begin with `prefix`."""

    def of_arm(arm: Arm) -> Positions:
        return [_numbered(value, prefix) for (value,) in published_points(arm, (key,))]

    def printed(row: PaperRow) -> Positions:
        value = of_row(row)
        return () if value is None else (_numbered(value, prefix),)

    def ours(arm: Arm) -> str:
        return ours_at(arm, (key,))

    return Direction(head, of_arm, printed, ours if shows_ours else None)


def by_count(
    key: str, letter: str, of_row: Callable[[PaperRow], int | None], head: str = ""
) -> Direction:
    """A position for each published value of a number of the protocol, labelled such as `T=100`."""

    def of_arm(arm: Arm) -> Positions:
        own = arm.protocol.get(key.removeprefix("protocol."))
        values = arm.published.get(key, [] if own is None else [own])
        return [Position(int(value), f"{letter}={value}") for value in values]

    def printed(row: PaperRow) -> Positions:
        value = of_row(row)
        return () if value is None else (Position(value, f"{letter}={value}"),)

    return Direction(head, of_arm, printed)


def by_backbone() -> Direction:
    """A position for each model."""

    def of_arm(arm: Arm) -> Positions:
        name = arm.context["backbone"]
        return (Position(plain(name), name),)

    return Direction("Model", of_arm, lambda row: (Position(plain(row.model), row.model),))


_PROTOCOLS = {
    "single": "single",
    "batch": "batch",
    "sequential": "sequential",
    "sequential_batch": "sequential batch",
    "lifelong": "lifelong",
    "serial": "serial",
}


def _protocol(arm: Arm) -> str:
    kind = str(arm.protocol["kind"])
    if kind != "lifelong":
        return kind
    return "sequential" if arm.protocol.get("edit_batch_size") == 1 else "sequential_batch"


def _protocol_position(kind: str) -> Positions:
    return (Position(kind, _PROTOCOLS[kind]),)


BY_PROTOCOL = Direction(
    "Protocol",
    lambda arm: _protocol_position(_protocol(arm)),
    lambda row: _protocol_position(row.setting),
)
BY_KIND = Direction(
    "Protocol",
    lambda arm: _protocol_position(str(arm.protocol["kind"])),
    lambda row: _protocol_position(KIND_OF_SETTING[row.setting]),
)


def _batch_position(setting: str, size: object) -> Positions:
    if setting == "batch":
        return (Position(("batch", size), f"batch of {size}"),)
    return (Position(setting, _PROTOCOLS[setting]),)


def _batch_positions_of_arm(arm: Arm) -> Positions:
    sizes = arm.published.get(EDITS, [arm.protocol["num_edits"]])
    return [position for size in sizes for position in _batch_position(_protocol(arm), size)]


BY_BATCH = Direction(
    "Batch", _batch_positions_of_arm, lambda row: _batch_position(row.setting, row.num_edits)
)

# Figure 4 of both MEMoE papers: three panels, each with one thing moved from these settings.
_PANELS = {"method.num_experts": "experts", "method.edit_layer": "layer"}
_CENTRE = {"layer": 16, "num_experts": 4, "top_k": 1}  # MEMoE v1, Appendix D, on LLaMA2-7B


def _panel_positions_of_arm(arm: Arm) -> Positions:
    for key, panel in _PANELS.items():
        if key in arm.swept:
            points = published_points(arm, (key,))
            return [Position((panel, value), f"{panel} {value}") for (value,) in points]
    if "method.top_k" not in arm.swept:
        return ()
    merging = arm.swept.get("method.merging", "top_k")
    name = merging if merging != "top_k" else f"top_{arm.swept['method.top_k']}"
    return (Position(("routing", plain(name)), f"routing {name}"),)


def _panel_positions_of_row(row: PaperRow) -> Positions:
    """The panels whose line runs through a row of the sweep over layer, experts and top-k."""
    own = {name: getattr(row, name) for name in _CENTRE}
    moved = {name for name in _CENTRE if own[name] != _CENTRE[name]}
    positions = []
    if moved <= {"num_experts"}:
        positions.append(Position(("experts", row.num_experts), f"experts {row.num_experts}"))
    if moved <= {"layer"}:
        positions.append(Position(("layer", row.layer), f"layer {row.layer}"))
    if moved <= {"top_k"}:
        positions.append(Position(("routing", f"top{row.top_k}"), f"routing top_{row.top_k}"))
    return positions


def _panel_ours(arm: Arm) -> str:
    keys = (*_PANELS, "method.top_k", "method.merging")
    return ours_at(arm, [key for key in keys if key in arm.swept])


BY_PANEL = Direction(
    "Panel", _panel_positions_of_arm, _panel_positions_of_row, _panel_ours, is_sorted=True
)


def _numbered(value: Any, prefix: str) -> Position:
    number = float(value)
    return Position(number, f"{prefix}{number:g}")
