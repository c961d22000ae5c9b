"""The command that writes one HTML page of whole stores, to be read anywhere without a network.

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

from analysis.arguments import SHARED_HELP, parse_options, store_folders

DEFAULTS = {"out": "", "parts": "", "live": "no"}
NICENESS = 19
CHOICES = {"live": ("no", "yes")}

EPILOG = f"""\
{SHARED_HELP}\
  out=FILE         where the page goes (default: report.html in the first store)
  live=yes         used by sweep.py with report=live, which says on standard input how it stands:
                   the page is written again with each line, and at the end without it; one store
  parts=FOLDER     its tables and figures also as files, in a folder for each ablation
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and print its name; 0, or 2 with one line on standard error."""
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="Write all tables, figures and verdicts of one store or more as an HTML page.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("options", nargs="*", metavar="key=value", help="see below")
    given = parser.parse_args(arguments)
    try:
        names, options = parse_options(given.options, DEFAULTS, CHOICES)
        if names:
            raise ValueError(f"{names[0]!r} is no option; a page shows all that the store holds")
        stores = store_folders(options)
        if options["live"] == "yes" and len(stores) > 1:
            raise ValueError(
                f"store={options['store']}: live=yes is for one store, that of the sweep"
            )
        # pandas, mlflow and matplotlib take seconds to import; typing errors should not wait.
        from analysis.page.content import Page, page_of
        from analysis.page.live import Live, follow, write_page
        from analysis.page.parts import write_parts
        from analysis.page.writing import html_of
        from analysis.render.files import make_folder, remove_folders

        path = Path(options["out"] or stores[0] / "report.html")
        links = [_link(store, path.parent) for store in stores]

        def made() -> Page:
            return page_of(stores, options["measure"] or None, options["mlflow"] or None)

        def text_of(page: Page, live: Live | None) -> str:
            return html_of(page, links, live)

        if options["live"] == "yes":
            os.nice(NICENESS)  # a sweep has other work for the processors
            is_local = not options["mlflow"]
            follow(sys.stdin, stores[0], path, page_of=made, html_of=text_of, is_local=is_local)
        else:
            page = made()
            # Both places are tried before anything is written into one of them.
            new = make_folder(Path(options["parts"]), "parts") if options["parts"] else ()
            try:
                write_page(path, text_of(page, None))
            except ValueError:
                remove_folders(new)
                raise
            if options["parts"]:
                write_parts(page, Path(options["parts"]))
        print(path)
    except ValueError as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    return 0


def _link(store: Path, folder: Path) -> str:
    """How links of a page in `folder` begin that lead into `store`."""
    base = Path(os.path.relpath(store.resolve(), folder.resolve())).as_posix()
    return "" if base == "." else f"{quote(base)}/"


if __name__ == "__main__":
    sys.exit(main())
