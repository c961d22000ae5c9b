"""The command that writes one HTML page of a whole store, to be read anywhere without a network.

python analysis/report.py store=results
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

# Run as a file, Python puts analysis/ in front of the import path; the repository belongs there.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.arguments import SHARED_HELP, parse_options

DEFAULTS = {"out": "", "parts": "", "live": "no"}
NICENESS = 19
CHOICES = {"live": ("no", "yes")}

EPILOG = f"""\
{SHARED_HELP}\
  out=FILE         where the page goes (default: report.html in the store)
  live=yes         used by sweep.py with report=live, which says on standard input how it stands:
                   the page is written again with each line, and at the end without it
  parts=FOLDER     its tables and figures also as files, in a folder for each ablation
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and print its name; 0, or 2 with one line on standard error."""
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="Write every table, figure and verdict of a store into one HTML page.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("options", nargs="*", metavar="key=value", help="see below")
    given = parser.parse_args(arguments)
    try:
        names, options = parse_options(given.options, DEFAULTS, CHOICES)
        if names:
            raise ValueError(f"{names[0]!r} is no option; a page shows all that the store holds")
        # pandas, mlflow and matplotlib take seconds to import; typing errors should not wait.
        from analysis.page.content import Page, page_of
        from analysis.page.live import Live, follow, replace_text
        from analysis.page.parts import write_parts
        from analysis.page.writing import html_of

        store = Path(options["store"])
        path = Path(options["out"] or store / "report.html")
        path.parent.mkdir(parents=True, exist_ok=True)
        base = Path(os.path.relpath(store.resolve(), path.parent.resolve())).as_posix()
        links = "" if base == "." else f"{quote(base)}/"

        def made() -> Page:
            return page_of(store, options["measure"] or None, options["mlflow"] or None)

        def text_of(page: Page, live: Live | None) -> str:
            return html_of(page, links, live)

        if options["live"] == "yes":
            os.nice(NICENESS)  # a sweep has other work for the processors
            is_local = not options["mlflow"]
            follow(sys.stdin, store, path, page_of=made, html_of=text_of, is_local=is_local)
        else:
            page = made()
            replace_text(path, text_of(page, None))
            if options["parts"]:
                write_parts(page, Path(options["parts"]))
        print(path)
    except ValueError as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
