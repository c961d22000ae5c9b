"""The command that prints the values which `ablation=presets` chose, as a block to paste.

python analysis/presets.py store=results > mine.yaml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# Run as a file, Python puts analysis/ in front of the import path; the repository belongs there.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.arguments import SHARED, SHARED_HELP, parse_options, store_folders

DEFAULTS = {"ablation": "presets", "backbone": "", "dataset": ""}

EPILOG = f"""\
{SHARED_HELP}\
  ablation=NAME    whose searches (default presets)
  backbone=NAME    of which; needed if the ablation ran on several
  dataset=NAME     on which data the values were chosen; needed if there are several

What is printed goes into the backbone's file, or into a file of its own: presets=FILE.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the block; 0, or 2 with one line on standard error when there is none."""
    parser = argparse.ArgumentParser(
        prog="presets.py",
        description="Print the values that ablation=presets chose for each method.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="see below")
    given = parser.parse_args(arguments)
    # pandas and mlflow take seconds to import; --help and wrong options should not wait for them.
    try:
        names, options = parse_options(given.words, DEFAULTS, {})
        if names:
            known = ", ".join((*SHARED, *DEFAULTS))
            raise ValueError(f"{names[0]!r} is no option; known: {known}")
        from analysis.reports.preset_report import Options, report

        chosen = Options(
            options["measure"] or "token",
            options["mlflow"] or None,
            options["backbone"] or None,
            options["dataset"] or None,
        )
        print(report(options["ablation"], store_folders(options), chosen), end="")
    except ValueError as error:
        print(f"presets.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
