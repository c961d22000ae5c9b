"""The command that prints a published table with our own numbers beside the paper's.

python analysis/table.py lemoe_table9 store=results format=markdown
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# Run as a file, Python puts analysis/ in front of the import path; the repository belongs there.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.arguments import (
    SHARED_HELP,
    only_name,
    parse_options,
    store_folders,
    table_parser,
)

DEFAULTS = {"filter": "none", "format": "auto"}
FORMATS = ("auto", "terminal", "markdown", "csv", "latex", "html")
CHOICES = {"filter": ("none", "published"), "format": FORMATS}

EPILOG = f"""\
{SHARED_HELP}\
  format=FORM      auto (default: terminal on one, else markdown), terminal (as wide as it is, the
                   published value under ours), markdown, csv, latex or html; for csv the notes go
                   to standard error
  filter=FILTER    none (default) or published (only our rows that pass the paper's filter)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0, or 2 with one line on standard error when it cannot be printed."""
    what = "Print a published table, or an ablation, with our numbers beside the paper's."
    given = table_parser("table.py", "table", what, EPILOG).parse_args(arguments)
    words = [word for word in (given.table, *given.options) if word]
    # pandas and mlflow take seconds to import; --help and wrong options should not wait for them.
    try:
        name, options = parse(words, needs_table=not given.list)
        if given.list:
            return _print_list()
        return _print_tables(name, options)
    except ValueError as error:
        print(f"table.py: {error}", file=sys.stderr)
        return 2


def parse(words: Sequence[str], needs_table: bool = True) -> tuple[str, dict[str, str]]:
    """The table's name and all options, defaults filled in.

    Raises:
        ValueError: If a key or value is unknown, or there is not exactly one table.
    """
    names, options = parse_options(words, DEFAULTS, CHOICES)
    if needs_table:
        return only_name(names, "table"), options
    return names[0] if names else "", options


def _print_tables(name: str, options: dict[str, str]) -> int:
    from analysis.render.documents import notes, render
    from analysis.reports.table_report import Options, assemble

    chosen = Options(
        store_folders(options),
        options["measure"] or None,
        is_filtered=options["filter"] == "published",
        server=options["mlflow"] or None,
    )
    tables, form = assemble(name, chosen), options["format"]
    if form == "auto":
        form = "terminal" if sys.stdout.isatty() else "markdown"
    if form == "terminal":
        from rich.console import Console

        from analysis.render.terminal import print_fitted

        print_fitted(tables, Console(highlight=False))
    elif form == "html":
        from analysis.page.writing import tables_as_html

        print(tables_as_html(tables))
    else:
        print(render(tables, form), end="")
    if form == "csv":
        print(notes(tables), end="", file=sys.stderr)
    return 0


def _print_list() -> int:
    from analysis.layouts.catalogue import questions

    print("\n".join(questions()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
