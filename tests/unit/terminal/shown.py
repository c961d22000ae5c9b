"""What a renderable shows on a wide terminal, as lines and the words of one of them."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType


def shown(what: RenderableType) -> list[str]:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text().splitlines()


def row(lines: list[str], start: str) -> list[str]:
    return next(line.split() for line in lines if line.startswith(start))
