"""The command that draws a published figure or table, ours beside the paper's.

python analysis/figure.py lemoe_table9 store=results format=svg
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
from analysis.figures import FORMATS, KINDS

DEFAULTS = {"format": "svg", "kind": "auto", "score": "", "out": ""}
CHOICES = {"format": FORMATS, "kind": KINDS}

EPILOG = f"""\
{SHARED_HELP}\
  format=FORM      svg (default), png or pdf
  kind=KIND        auto (default: as published, or what suits the table), dots, curve, heat_map
                   (of a grid) or agreement (ours against the paper's, cell by cell)
  score=SCORE      what kind=heat_map shows (default average)
  out=FOLDER       where the files go (default: figures/ in the first store)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw and print the files' names; 0, or 2 with one line on standard error."""
    what = "Draw a published table or figure, or an ablation, ours beside the paper's."
    given = table_parser("figure.py", "figure", what, EPILOG).parse_args(arguments)
    words = [word for word in (given.figure, *given.options) if word]
    # pandas, mlflow and matplotlib take seconds to import; --help and typing errors do not wait.
    try:
        names, options = parse_options(words, DEFAULTS, CHOICES)
        if given.list:
            return _print_list()
        name = only_name(names, "figure")
        if options["score"] and options["kind"] != "heat_map":
            raise ValueError(f"score={options['score']} is for kind=heat_map alone")
        return _draw(name, options)
    except ValueError as error:
        print(f"figure.py: {error}", file=sys.stderr)
        return 2


def _draw(name: str, options: dict[str, str]) -> int:
    from analysis.figures.catalogue import drawing
    from analysis.figures.style import store, styled
    from analysis.render.table import file_stems
    from analysis.reports.table_report import Options, assemble

    chosen = Options(
        store_folders(options), options["measure"] or None, server=options["mlflow"] or None
    )
    draw = drawing(name, options["kind"], options["score"] or "average")
    tables = assemble(name, chosen)
    folder = Path(options["out"] or chosen.stores[0] / "figures")
    kind = "" if options["kind"] == "auto" else options["kind"]
    said = [part for part in (kind, options["score"], options["measure"]) if part]
    for stem, table in zip(file_stems(tables, "-".join((name, *said))), tables, strict=True):
        path = folder / f"{stem}.{options['format']}"
        with styled():
            store(draw(table), path)
        print(path)
    return 0


def _print_list() -> int:
    from analysis.layouts.catalogue import questions

    print("\n".join(questions()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
