"""Writes the tables and figures of a page as files of their own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from urllib.parse import quote

from analysis.page.content import Page, Shown
from analysis.render.documents import render
from analysis.render.files import write_file


def write_parts(page: Page, folder: Path) -> None:
    """One folder for each ablation, with each table as Markdown and its figure as SVG.

    A published table that several ablations answer is in the folder of each.

    Raises:
        OutputError: If one of the files cannot be written.
    """
    by_table: dict[str, list[Shown]] = {}
    for ablation in page.ablations:
        for shown in ablation.shown:
            by_table.setdefault(shown.table.name, []).append(shown)
    for ablation in page.ablations:
        own = list(ablation.shown)
        own += [each for name, _ in ablation.elsewhere for each in by_table.get(name, ())]
        _write(own, folder / file_name(ablation.name))


def file_name(name: str) -> str:
    """A name out of a store as that of a file, which lies in no other folder."""
    return quote(name, safe="").replace(".", "%2E") if name.startswith(".") else quote(name, "")


def _write(shown: list[Shown], folder: Path) -> None:
    met: Counter[str] = Counter()
    for each in shown:
        name = f"{file_name(each.table.name)}{each.table.suffix}"
        met[name] += 1
        stem = name if met[name] == 1 else f"{name}_{met[name]}"
        write_file(folder / f"{stem}.md", render([each.table], "markdown").encode(), "parts")
        if each.svg:
            write_file(folder / f"{stem}.svg", each.svg.encode(), "parts")
