"""Where an arm of ours and a published row stand in a table: the directions of its layout."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from analysis.aggregate import Arm
from analysis.published.compare import KIND_OF_SETTING, ours_at, plain, published_points
from analysis.published.paper_numbers import PaperRow

EDITS, QUESTIONS = "protocol.num_edits", "protocol.num_questions"


@dataclass(frozen=True)
class Spot:
    """One row, or one group of columns: equal by `key` alone."""

    key: Hashable
    label: str = field(compare=False)


Spots: TypeAlias = Sequence[Spot]


@dataclass(frozen=True)
class Place:
    """One direction of a table.

    Attributes:
        head: Of its column of labels.
        of_arm: Where an arm stands; several where it stands for several published cells, none
            where it has no place in the table.
        of_row: Where a published row stands.
        ours: What to say of an arm beside its label; None: nothing.
        is_sorted: Whether rows stand by their keys instead of in the paper's order.
    """

    head: str
    of_arm: Callable[[Arm], Spots]
    of_row: Callable[[PaperRow], Spots]
    ours: Callable[[Arm], str] | None = None
    is_sorted: bool = False


def by_method(printed_as: Mapping[str, str] | None = None) -> Place:
    """By method; `printed_as` gives our names that differ by more than spelling."""
    names = printed_as or {}

    def of_arm(arm: Arm) -> Spots:
        return (Spot(plain(names.get(arm.method, arm.method)), arm.method),)

    def of_row(row: PaperRow) -> Spots:
        return (Spot(plain(row.method), row.method_printed or row.method),)

    return Place("Method", of_arm, of_row)


def by_variant(head: str = "Variant", *, shows_method: bool = True) -> Place:
    """By the paper's name of a variant, which is the name of our arm.

    A published row without one, a baseline among variants, goes by its method. Rows bear what the
    paper prints in its column of methods, unless `shows_method` is false.
    """

    def ours(arm: Arm) -> str:
        return str(arm.swept.get("arm", arm.name))

    def of_arm(arm: Arm) -> Spots:
        return (Spot(plain(ours(arm)), ours(arm)),)

    def of_row(row: PaperRow) -> Spots:
        name = row.variant.rpartition("=")[2] or row.method
        return (Spot(plain(name), (shows_method and row.method_printed) or name),)

    return Place(head, of_arm, of_row, ours)


def by_key(
    key: str,
    head: str,
    of_row: Callable[[PaperRow], Any],
    *,
    prefix: str = "",
    shows_ours: bool = True,
) -> Place:
    """By the published value of a swept key, such as `method.mask_ratio`; `prefix` labels it."""

    def of_arm(arm: Arm) -> Spots:
        return [_number(value, prefix) for (value,) in published_points(arm, (key,))]

    def printed(row: PaperRow) -> Spots:
        value = of_row(row)
        return () if value is None else (_number(value, prefix),)

    def ours(arm: Arm) -> str:
        return ours_at(arm, (key,))

    return Place(head, of_arm, printed, ours if shows_ours else None)


def by_count(
    key: str, letter: str, of_row: Callable[[PaperRow], int | None], head: str = ""
) -> Place:
    """By a number of the protocol that was published for the arm, such as `T=100`."""

    def of_arm(arm: Arm) -> Spots:
        own = arm.protocol.get(key.removeprefix("protocol."))
        values = arm.published.get(key, [] if own is None else [own])
        return [Spot(int(value), f"{letter}={value}") for value in values]

    def printed(row: PaperRow) -> Spots:
        value = of_row(row)
        return () if value is None else (Spot(value, f"{letter}={value}"),)

    return Place(head, of_arm, printed)


def by_backbone() -> Place:
    """By model."""

    def of_arm(arm: Arm) -> Spots:
        name = arm.context["backbone"]
        return (Spot(plain(name), name),)

    return Place("Model", of_arm, lambda row: (Spot(plain(row.model), row.model),))


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


def _of_kind(kind: str) -> Spots:
    return (Spot(kind, _PROTOCOLS[kind]),)


BY_PROTOCOL = Place(
    "Protocol", lambda arm: _of_kind(_protocol(arm)), lambda row: _of_kind(row.setting)
)
BY_KIND = Place(
    "Protocol",
    lambda arm: _of_kind(str(arm.protocol["kind"])),
    lambda row: _of_kind(KIND_OF_SETTING[row.setting]),
)


def _batch_of(setting: str, size: object) -> Spots:
    if setting == "batch":
        return (Spot(("batch", size), f"batch of {size}"),)
    return (Spot(setting, _PROTOCOLS[setting]),)


def _batch_of_arm(arm: Arm) -> Spots:
    sizes = arm.published.get(EDITS, [arm.protocol["num_edits"]])
    return [spot for size in sizes for spot in _batch_of(_protocol(arm), size)]


BY_BATCH = Place("Batch", _batch_of_arm, lambda row: _batch_of(row.setting, row.num_edits))

# Figure 4 of both MEMoE papers: three panels, each with one thing moved from these settings.
_PANELS = {"method.num_experts": "experts", "method.edit_layer": "layer"}
_CENTRE = {"layer": 16, "num_experts": 4, "top_k": 1}  # MEMoE v1, Appendix D, on LLaMA2-7B


def _panel_of_arm(arm: Arm) -> Spots:
    for key, panel in _PANELS.items():
        if key in arm.swept:
            points = published_points(arm, (key,))
            return [Spot((panel, value), f"{panel} {value}") for (value,) in points]
    if "method.top_k" not in arm.swept:
        return ()
    merging = arm.swept.get("method.merging", "top_k")
    name = merging if merging != "top_k" else f"top_{arm.swept['method.top_k']}"
    return (Spot(("routing", plain(name)), f"routing {name}"),)


def _panel_of_row(row: PaperRow) -> Spots:
    """The panels whose line runs through a row of the sweep over layer, experts and top-k."""
    own = {name: getattr(row, name) for name in _CENTRE}
    moved = {name for name in _CENTRE if own[name] != _CENTRE[name]}
    spots = []
    if moved <= {"num_experts"}:
        spots.append(Spot(("experts", row.num_experts), f"experts {row.num_experts}"))
    if moved <= {"layer"}:
        spots.append(Spot(("layer", row.layer), f"layer {row.layer}"))
    if moved <= {"top_k"}:
        spots.append(Spot(("routing", f"top{row.top_k}"), f"routing top_{row.top_k}"))
    return spots


def _panel_ours(arm: Arm) -> str:
    keys = (*_PANELS, "method.top_k", "method.merging")
    return ours_at(arm, [key for key in keys if key in arm.swept])


BY_PANEL = Place("Panel", _panel_of_arm, _panel_of_row, _panel_ours, is_sorted=True)


def _number(value: Any, prefix: str) -> Spot:
    number = float(value)
    return Spot(number, f"{prefix}{number:g}")
