"""The command that says whether our runs confirm or refute each published claim.

python analysis/claims.py store=results
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# Run as a file, Python puts analysis/ in front of the import path; the repository belongs there.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.arguments import SHARED_HELP, parse_options, store_folders

DEFAULTS = {"format": "markdown"}
CHOICES = {"format": ("markdown", "beside", "csv")}

EPILOG = f"""\
{SHARED_HELP}\
  format=FORM      markdown (default); beside, one table with a column for each backbone and data
                   set; or csv, one line per comparison
--ablations prints what to sweep for these claims instead; make claims does it
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the verdicts; 0, or 2 with one line on standard error when there are none to print."""
    parser = argparse.ArgumentParser(
        prog="claims.py",
        description="Say of each published claim: confirmed, refuted, undecided or not run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="claim|key=value",
        help="a paper (lemoe) or one claim (lemoe.c3), all by default; options: see below",
    )
    parser.add_argument(
        "--ablations",
        action="store_true",
        help="name the ablations that test these claims, one in a line, and read no store",
    )
    given = parser.parse_args(arguments)
    # pandas and mlflow take seconds to import; --help and wrong options should not wait for them.
    try:
        asked, options = parse_options(given.words, DEFAULTS, CHOICES)
        from analysis.reports.claim_report import Options, ablations_of, report

        if given.ablations:
            print(*ablations_of(asked), sep="\n")
            return 0
        chosen = Options(
            store_folders(options),
            options["measure"] or None,
            options["mlflow"] or None,
        )
        print(report(asked, chosen, options["format"]), end="")
    except ValueError as error:
        print(f"claims.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
