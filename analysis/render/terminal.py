"""Tables that fit a terminal: the published value under ours, columns in blocks where needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from analysis.aggregate import Estimate
from analysis.render.table import CELLS, PRINTED_DIGITS, Entry, Table, entry_parts, worded

_CAPS = (40, 22)  # cells of a column of labels, which wraps beyond; the first that saves a block
_PADDING = 2
_NOTHING = "-"  # where the paper has no number; Markdown says why


def print_fitted(tables: Sequence[Table], console: Console) -> None:
    """Print tables one below another, as wide as the console is."""
    for table in tables:
        console.print(fitted(table, console.width))


def fitted(table: Table, width: int) -> RenderableType:
    """The table in `width` cells, with all its lines above and below.

    The number of seeds stands in the cells only where it differs between them.
    """
    shown = _Shown(table, width)
    of_cells = CELLS + (" (number of seeds)" if shown.has_counts else "")
    if any(entry.paper is not None for row in table.rows for entry in row.entries):
        of_cells += "; second line: the paper's"
    above = [f"{key}: {value}" for key, value in table.context.items()]
    above += worded(table, of_cells)
    return Group(
        Text(table.heading, style="bold"),
        *(Text(line, style="dim") for line in above),
        *(shown.grid(block) for block in shown.blocks),
        *(Text(line, style="dim") for line in table.footer),
        "",
    )


class _Shown:
    """The texts of a table, and which columns stand side by side."""

    def __init__(self, table: Table, width: int) -> None:
        self._table = table
        seeds = {
            entry.ours.num_seeds
            for row in table.rows
            for entry in row.entries
            if isinstance(entry.ours, Estimate)
        }
        self.has_counts = len(seeds) > 1
        digits = [table.digits.get(key, PRINTED_DIGITS) for key in table.scores]
        self._cells = [list(map(self._cell, row.entries, digits)) for row in table.rows]
        self._widths = [
            max(cell_len(line) for text in (head, *texts) for line in text.split("\n"))
            for head, *texts in zip(table.scores.values(), *self._cells, strict=True)
        ]
        layouts = [(cap, list(self._blocks(width, cap))) for cap in _CAPS]
        self._cap, self.blocks = min(layouts, key=lambda layout: len(layout[1]))

    def grid(self, block: Sequence[int]) -> Grid:
        """One block of columns behind all labels."""
        grid = Grid(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
        for label in self._table.labels:
            grid.add_column(Text(label), max_width=self._cap, overflow="fold")
        headings = list(self._table.scores.values())
        for place in block:
            grid.add_column(Text(headings[place]), no_wrap=True)
        for row, cells in zip(self._table.rows, self._cells, strict=True):
            grid.add_row(*map(Text, row.labels), *(_coloured(cells[place]) for place in block))
        return grid

    def _blocks(self, width: int, cap: int) -> Iterator[list[int]]:
        """Places of the score columns, block by block."""
        columns = zip(self._table.labels, *(row.labels for row in self._table.rows), strict=True)
        labels = [min(cap, max(map(cell_len, texts))) + _PADDING for texts in columns]
        free = width - sum(labels)
        block: list[int] = []
        used = 0
        for place, needed in enumerate(self._widths):
            if block and used + needed + _PADDING > free:
                yield block
                block, used = [], 0
            block.append(place)
            used += needed + _PADDING
        if block:
            yield block

    def _cell(self, entry: Entry, digits: int) -> str:
        """Ours, then the paper's in a second line."""
        ours, paper = entry_parts(entry, digits)
        if isinstance(entry.ours, Estimate) and not self.has_counts:
            ours = ours.removesuffix(f" ({entry.ours.num_seeds})")
        if paper is None:
            return ours
        return f"{ours}\n{_NOTHING if isinstance(entry.paper, str) else paper}"


def _coloured(cell: str) -> Text:
    ours, _, paper = cell.partition("\n")
    text = Text(ours)
    if paper:
        text.append(f"\n{paper}", style="cyan")
    return text
