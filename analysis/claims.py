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

from analysis.arguments import parse_options

CHOICES = {"format": ("markdown", "csv")}
DEFAULTS = {"store": "results", "mlflow": "", "measure": "token", "format": "markdown"}

EPILOG = """\
options, as key=value:
  store=FOLDER     the sweeps' store (default results)
  mlflow=ADDRESS   the MLflow server that they wrote to; default: the store's own database
  format=FORM      markdown (default) or csv, one line per comparison
  measure=MEASURE  token (default: teacher-forced token accuracy, as published), exact, generated
                   or token_no_blank (token without a first token that is a blank alone)
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
    given = parser.parse_args(arguments)
    # pandas and mlflow take seconds to import; --help and wrong options should not wait for them.
    try:
        from analysis.metrics import MEASURES

        choices = {"measure": MEASURES, **CHOICES}
        asked, options = parse_options(given.words, DEFAULTS, choices)
        from analysis.claim_report import Options, report

        chosen = Options(Path(options["store"]), options["measure"], options["mlflow"] or None)
        print(report(asked, chosen, options["format"]), end="")
    except ValueError as error:
        print(f"claims.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
