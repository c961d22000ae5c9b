"""Explains one key: what it means, what it may be, and where its value comes from in a plan.

The words are those that stand beside the keys anyway: the tables of `search_spaces/README.md`, and
of a method's settings the docstring of its Config.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.errors import UsageError
from orchestrator.planning.plan import Plan
from orchestrator.settings.yaml_files import GROUPS, SearchSpaces
from orchestrator.terminal.plan_tables import entries

_TOP = "The command line"  # heading of the keys that stand alone
_PARTS = ("protocol", "evaluate", "scheduler", "method", "backbone", "dataset")
_METHODS = Path(__file__).resolve().parents[2] / "trainables" / "methods"
_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*)$")
_MOST_ARMS = 4  # named with a value; more are counted
_ABSENT = object()


@dataclass(frozen=True)
class Explanation:
    """What is said of one key.

    Attributes:
        of: Whose key it is: a method, or "" where it means the same everywhere.
        said: Heading -> text, such as `meaning`, `unit, values`, `default`.
    """

    of: str
    said: Mapping[str, str]


def explained(key: str, spaces: SearchSpaces, plan: Plan | None = None) -> RenderableType:
    """What a key means and, with a plan, its values there and their sources.

    Raises:
        UsageError: If there is no such key.
    """
    known = explanations(spaces)
    if key not in known:
        last = key.rpartition(".")[2]
        near = [each for each in known if each.rpartition(".")[2] == last]
        near = near or difflib.get_close_matches(key, known, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise UsageError(f"--explain {key}: no such key; {hint}all: search_spaces/README.md")
    parts: list[RenderableType] = [Text(key, style="bold")]
    for each in known[key]:
        table = Table(box=None, show_header=False, pad_edge=False, title_justify="left")
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        if each.of:
            table.add_row("of", Text(each.of))
        for heading, text in each.said.items():
            if text:
                table.add_row(heading, Text(text))
        parts += [table]
    if plan is not None:
        parts.append(_values(key, plan))
    return Group(*parts)


def explanations(spaces: SearchSpaces) -> dict[str, list[Explanation]]:
    """All keys that can be explained, dotted as they are typed."""
    found: dict[str, list[Explanation]] = {}
    for key, said in _documented((spaces.folder / "README.md").read_text("utf-8")):
        found.setdefault(key, []).append(Explanation("", said))
    for group in GROUPS:
        said = {
            "meaning": f"a file of search_spaces/{group}/",
            "values": ", ".join(spaces.names(group)),
        }
        found.setdefault(group, []).append(Explanation("", said))
    methods: dict[tuple[str, str], dict[str, str]] = {}  # (key, meaning) -> default by method
    for name in spaces.names("method"):
        values = spaces.load("method", name)
        for attribute, text in _attributes(_METHODS, str(values.get("module", name))).items():
            default = str(values.get(attribute))
            methods.setdefault((f"method.{attribute}", text), {})[name] = default
    for (key, text), defaults in methods.items():
        said = {"meaning": text, "default": _by_value(defaults)}
        found.setdefault(key, []).append(Explanation(", ".join(defaults), said))
    return found


def _documented(readme: str) -> list[tuple[str, dict[str, str]]]:
    """Keys of the tables below the headings of known parts, with the cells of their rows."""
    found = []
    part: str | None = None
    heads: list[str] = []
    for line in readme.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").strip("`")
            part = "" if heading == _TOP else f"{heading}." if heading in _PARTS else None
            heads = []
        elif not line.startswith("|"):
            heads = []
        elif part is not None:
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
            if not heads:
                heads = cells
            elif heads[0] == "key" and not set(line) <= set("|-: "):
                said = dict(zip(heads[1:], map(_plain, cells[1:]), strict=False))
                found += [(part + name, said) for name in re.findall(r"`(\w+)`", cells[0])]
    return found


def _attributes(folder: Path, module: str) -> dict[str, str]:
    """What the docstring of a method's Config says of each setting; the file is not imported."""
    path = folder / f"{module}.py"
    path = path if path.is_file() else folder / module / "method.py"
    if not path.is_file():
        return {}
    classes = [n for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.ClassDef)]
    docs = [ast.get_docstring(each) or "" for each in classes if each.name == "Config"]
    found: dict[str, str] = {}
    last = ""
    for line in docs[0].partition("Attributes:")[2].splitlines() if docs else ():
        if match := _ATTRIBUTE.match(line):
            last = match[1]
            found[last] = match[2].strip()
        elif line.strip() and last:
            found[last] += f" {line.strip()}"
    return found


def _values(key: str, plan: Plan) -> RenderableType:
    """The values of a key in a plan's trials, each with its source and its arms."""
    holders = entries(key, {spec.arm: spec for spec in plan.knowable})
    found: object = plan.config
    for part in key.split("."):
        found = getattr(found, part, _ABSENT)
    if not holders and found is not _ABSENT:
        shown = list(found) if isinstance(found, tuple) else found
        return Text(f"in ablation={plan.config.ablation}: {shown}")
    if not holders:
        return Text(f"no trial of ablation={plan.config.ablation} has it")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in (f"in ablation={plan.config.ablation}", "from", "arms"):
        table.add_column(heading, overflow="fold")
    for (value, source), arms in holders.items():
        named = ", ".join(arms) if len(arms) <= _MOST_ARMS else f"{len(arms)} arms"
        table.add_row(Text(value), Text(source), Text(named))
    return table


def _by_value(defaults: Mapping[str, str]) -> str:
    """The defaults of some methods, each with those that have it unless all do."""
    holders: dict[str, list[str]] = {}
    for name, value in defaults.items():
        holders.setdefault(value, []).append(name)
    if len(holders) == 1:
        return next(iter(holders))
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in holders.items())


def _plain(cell: str) -> str:
    """A cell of Markdown without the marks of code."""
    return cell.replace("`", "").replace("\\|", "|")
