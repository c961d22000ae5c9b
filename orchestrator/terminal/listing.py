"""Makes the table that `--list` prints."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from orchestrator.errors import UsageError
from orchestrator.planning.plan import expand
from orchestrator.settings.loading import load_plain
from orchestrator.settings.yaml_files import SearchSpaces


def ablations(spaces: SearchSpaces) -> Table:
    """Every ablation with its question, its published table, and its trials in each scale.

    An ablation that cannot be expanded is listed with the reason.
    """
    scales = sorted(spaces.names("scale"), key=lambda name: (name != "quick", name))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("ablation", "question", "table"):
        table.add_column(heading, overflow="fold")
    for scale in scales:
        table.add_column(f"trials, {scale}", justify="right")
    for name in spaces.names("ablation"):
        counts, problem = list[str](), ""
        paper = spaces.load("ablation", name).get("paper") or ""
        for scale in scales:
            try:
                counts.append(
                    str(expand(load_plain(spaces, {"ablation": name, "scale": scale})).num_trials)
                )
            except UsageError as error:
                counts.append("-")
                problem = str(error)
        question = spaces.question(name) + (f"\n(cannot run: {problem})" if problem else "")
        tables = paper if isinstance(paper, str) else ", ".join(paper)
        table.add_row(name, Text(question), tables, *counts)
    return table
