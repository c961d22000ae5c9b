"""What the README shows of Python can be imported; what it names of files is there."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_names_that_the_notebook_imports_are_there() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    imports = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
    assert len(imports) > 3
    for node in imports:
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def test_files_that_are_named_are_there() -> None:
    named = set(
        re.findall(r"`((?:trainables|orchestrator|analysis|search_spaces)/[\w/.]+)`", README)
    )
    assert "trainables/methods/ft.py" in named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
