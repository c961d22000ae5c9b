"""Draws docs/rooms.svg: the rooms of each package, and which of them import which.

    python docs/draw_rooms.py [FILE]

Levels are those of the `layers` contracts in pyproject.toml; the imports are those that the code
really has, inside functions too. import-linter keeps the two in agreement; a test keeps the drawing
current.
"""

from __future__ import annotations

import sys
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
# In the order in which they stand: the orchestrator in the middle talks to both others.
PACKAGES = ("trainables", "orchestrator", "analysis")
HEAVY = ("torch", "ray", "mlflow")  # imports of over a second, by which rooms differ most
COLUMN, GAP, MARGIN = 410, 110, 20  # widths, in pixels
LINE, PADDING = 15, 7  # height of a line of text, and what a level adds around its lines
TOP = 64  # where the first level begins
SIGNS = 60  # of a line of text, at the width of a column
CHANNELS = (  # of each gap: what crosses it, and whether to the right
    (("a trial's specification", False), ("rows of numbers", True)),
    (("runs in MLflow", True),),
)


@dataclass(frozen=True)
class Room:
    """A folder or a loose module of a package, with what it imports.

    Attributes:
        name: Without its package.
        imports: Rooms of its own package, and those of others as `package.room`.
        libraries: Which of `HEAVY` it imports.
    """

    name: str
    imports: tuple[str, ...]
    libraries: tuple[str, ...]


Levels = Sequence[Sequence[Room]]


def read_packages() -> dict[str, Levels]:
    """The rooms of every package, by level, the highest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    levels: dict[str, list[list[str]]] = {}
    for contract in settings["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers":
            (package,) = contract["containers"]
            levels[package] = [
                [name.strip() for name in layer.split("|")] for layer in contract["layers"]
            ]
    sys.path.insert(0, str(ROOT))
    graph = grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)
    return {
        package: [[_room(graph, package, name) for name in level] for level in levels[package]]
        for package in PACKAGES
    }


def draw(packages: Mapping[str, Levels]) -> str:
    """The drawing as SVG: a column for each package, a box for each level."""
    columns = [_column(number, package) for number, package in enumerate(packages.items())]
    height = max(bottom for _, bottom in columns) + MARGIN
    width = len(packages) * COLUMN + (len(packages) - 1) * GAP + 2 * MARGIN
    arrows = [line for gap in range(len(packages) - 1) for line in _channels(gap)]
    body = [line for lines, _ in columns for line in lines]
    return "\n".join([*_head(width, height), *arrows, *body, "</svg>"]) + "\n"


def _room(graph: grimp.ImportGraph, package: str, name: str) -> Room:
    top = f"{package}.{name}"
    inside = {top, *graph.find_descendants(top)}
    found = {
        target
        for module in inside
        for target in graph.find_modules_directly_imported_by(module) - inside
    }
    rooms = {".".join(target.split(".")[:2]) for target in found if "." in target}
    own = {room for room in rooms if room.startswith(f"{package}.")}
    names = [room.removeprefix(f"{package}.") for room in sorted(own)]
    return Room(
        name, (*names, *sorted(rooms - own)), tuple(each for each in HEAVY if each in found)
    )


def _head(width: int, height: int) -> Iterable[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">'
    )
    yield f'<rect width="{width}" height="{height}" fill="white"/>'
    yield (
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>'
    )


def _column(number: int, package: tuple[str, Levels]) -> tuple[list[str], int]:
    """The lines of one package, and where its last level ends."""
    name, levels = package
    left, y = MARGIN + number * (COLUMN + GAP), TOP
    lines = [
        f'<text x="{left}" y="34" font-size="18" font-weight="bold">{name}/</text>',
        f'<text x="{left}" y="52" fill="#555">each level imports only from those below it</text>',
    ]
    for level in levels:
        texts = [line for room in level for line in _texts(room)]
        height = LINE * len(texts) + 2 * PADDING
        lines.append(
            f'<rect x="{left}" y="{y}" width="{COLUMN}" height="{height}" rx="5" '
            'fill="#f3f6fa" stroke="#8899aa"/>'
        )
        for row, text in enumerate(texts):
            baseline = y + PADDING + LINE * row + 11
            lines.append(f'<text x="{left + 10}" y="{baseline}">{text}</text>')
        y += height + PADDING
    return lines, y - PADDING


def _texts(room: Room) -> list[str]:
    """A room's lines: its name, what it imports, and in colour the heavy libraries."""
    imports = ", ".join(room.imports)
    first, *rest = textwrap.wrap(f"{room.name}: {imports}" if imports else room.name, SIGNS)
    head = f'<tspan font-weight="bold">{escape(first[: len(room.name)])}</tspan>'
    lines = [head + escape(first[len(room.name) :])]
    lines += [f'<tspan dx="14" fill="#333">{escape(line)}</tspan>' for line in rest]
    if room.libraries:
        lines[-1] += f'<tspan dx="6" fill="#b03030">{" ".join(room.libraries)}</tspan>'
    return lines


def _channels(gap: int) -> Iterable[str]:
    """What crosses the gap behind column `gap`: a word and an arrow each."""
    left = MARGIN + (gap + 1) * COLUMN + gap * GAP + 4
    right = left + GAP - 8
    for number, (words, is_rightwards) in enumerate(CHANNELS[gap]):
        y = TOP + 30 + 40 * number
        start, end = (left, right) if is_rightwards else (right, left)
        middle = (left + right) // 2
        yield f'<text x="{middle}" y="{y - 6}" text-anchor="middle" font-size="9">{words}</text>'
        yield (
            f'<line x1="{start}" y1="{y}" x2="{end}" y2="{y}" stroke="#555" '
            'marker-end="url(#head)"/>'
        )


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "rooms.svg"
    target.write_text(draw(read_packages()), "utf-8")
