"""Prints the table of README.md: each finding of this folder, with the first line of its script.

python findings/table.py
"""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def table() -> str:
    """One row per script that checks a finding."""
    rows = ["| script | finding |", "|---|---|"]
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        imported = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        if "pinned" in imported:
            rows.append(f"| `{path.name}` | {(ast.get_docstring(tree) or '').splitlines()[0]} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
