"""Finds the tasks that `evaluate.ability` names, and refuses what cannot be asked; no torch.

`search_spaces/ability/<task>.yaml` defines a task of the made-up world, or one that reads files of
the user's; every other name is a task, or a group of tasks, of lm-evaluation-harness itself, the
optional extra `ability`. Its folder holds 14,000 YAML files, which it takes 18 seconds to index:
here the one that defines the name is looked for, which takes less than a second.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, Literal

from trainables.bases import FOLDER, read_yaml
from trainables.edits.embedded import EMBEDDED, WORLD
from trainables.errors import ConfigError, DataError
from trainables.reading.columns import Column, is_of_columns, sentences
from trainables.reading.json_files import objects, read_bytes
from trainables.spec import BackboneSpec, EvaluateSpec

VERSION = 1  # of how answers are scored
KEY, PATH = "evaluate.ability", "evaluate.path"
_HARNESS, _EXTRA = "lm_eval", "pip install -c constraints.txt -e '.[ability]'"
_MOST_SHOWN = 40  # signs of a value
_OR = " or "  # between patterns of a file's name
_TAG = re.compile(r"O|[BI]-\w+")  # of a token in an entity, or in none
_NAMED = re.compile(r"""^["']?(?:task|group)["']?: *["']?([^\s"'#\[]+)""", re.MULTILINE)


@dataclass(frozen=True)
class Definition:
    """One file of `search_spaces/ability/`.

    Attributes:
        name: Of the task and its file.
        reads: `world`: nothing, it is of the made-up world; `files`: files of the user's.
        version: Raised with every change that moves a number.
        files: Split -> pattern of the name of its file, or several.
        fields: Keys that each record must have, with what stands there: `text`, `texts`,
            `text or texts`, `tags`, or one of a list of values.
        columns: Key -> the column of it in a file that holds no JSON; none: it must hold JSON.
        task: Prompt, answer and kind of the task, as the harness takes them.
        scoring: A function of `scoring.py`; None: the harness's own metric.
    """

    name: str
    reads: Literal["world", "files"]
    version: int
    files: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    fields: Mapping[str, str | Sequence[Any]] = field(default_factory=dict)
    columns: Mapping[str, Column] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    scoring: str | None = None


@cache
def defined() -> Mapping[str, Definition]:
    """All tasks that have a file, by name."""
    found = {}
    for path in sorted((FOLDER / "ability").glob("*.yaml")):
        values = {key: value for key, value in read_yaml(path).items() if key != "cost"}
        found[path.stem] = Definition(path.stem, **values)
    return found


def check(wanted: EvaluateSpec, backbone: BackboneSpec) -> None:
    """Refuse tasks that cannot be asked: unknown, without their files, or without the harness.

    Raises:
        ConfigError: For a task that is unknown, needs the extra, or does not suit the backbone.
        DataError: For files that are missing, or records without a key.
    """
    knows_world = backbone.is_embedded and EMBEDDED[backbone.embedded_name].source == WORLD
    for name in wanted.ability:
        known = defined().get(name)
        of_world = known is not None and known.reads == "world"
        if of_world and not knows_world:
            made = ", ".join(each for each, one in EMBEDDED.items() if one.source == WORLD)
            raise ConfigError(
                f"{KEY}={name}: backbone={backbone.name} has not read the made-up world; "
                f"it is for backbone={made}"
            )
        if not of_world and backbone.is_embedded:
            tasks = ", ".join(each for each, one in defined().items() if one.reads == "world")
            raise ConfigError(
                f"{KEY}={name}: backbone={backbone.name} is made up and knows no task; "
                f"for it there are {tasks}"
            )
        if of_world:
            continue
        if importlib.util.find_spec(_HARNESS) is None:
            raise ConfigError(f"{KEY}={name}: needs lm-evaluation-harness; {_EXTRA}")
        if known is None:
            harness_file(name)
        else:
            for path in files_of(known, wanted).values():
                documents(known, path)


def digest(wanted: EvaluateSpec) -> str:
    """A name for all that decides the answers beside the model; "" where nothing is asked."""
    if not wanted.ability:
        return ""
    each = sorted(digest_of(wanted, name) for name in wanted.ability)
    return hashlib.sha256(json.dumps(each).encode()).hexdigest()


def digest_of(wanted: EvaluateSpec, name: str) -> str:
    """As `digest`, of one task: its definition, its questions and the harness's version."""
    known = defined().get(name)
    said: list[Any] = [VERSION, name, wanted.questions]
    if known is not None:
        said += [known.version, known.task, known.scoring]
    if known is None or known.reads == "files":
        said.append(_harness_version())
    if known is not None and known.reads == "files":
        files = files_of(known, wanted).items()
        said.append({split: hashlib.sha256(read_bytes(f, PATH)).hexdigest() for split, f in files})
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def files_of(known: Definition, wanted: EvaluateSpec) -> dict[str, Path]:
    """The file of each split of a task.

    Raises:
        ConfigError: If `evaluate.path` is not set.
        DataError: If no file there, or more than one, bears the name that the task's pattern asks.
    """
    if wanted.path is None:
        patterns = " and ".join(map(_either, known.files.values()))
        raise ConfigError(
            f"{PATH} is not set; {KEY}={known.name} reads {patterns} from it: a folder, a file, "
            "or a list of these"
        )
    paths = [wanted.path] if isinstance(wanted.path, str) else list(wanted.path)
    there = list(_files_in(paths))
    found = {}
    for split, named_so in known.files.items():
        either = _either(named_so)
        named = [p for p in there if any(fnmatch(p.name, each) for each in either.split(_OR))]
        if len(named) != 1:
            many = ", ".join(path.name for path in named) or "none"
            raise DataError(
                f"{PATH} is {', '.join(paths)}: {KEY}={known.name} reads one file named "
                f"{either}; there is {many}"
            )
        found[split] = named[0]
    return found


def documents(known: Definition, path: Path) -> list[dict[str, Any]]:
    """The records of a task's file, with the keys that the task reads.

    Raises:
        DataError: If the file is empty or broken, or a record lacks a key or has something else
            there.
    """
    found = []
    data = read_bytes(path, PATH)
    records: Iterator[tuple[int, Any]] = (
        sentences(path, data, known.columns, PATH)
        if known.columns and is_of_columns(path)
        else objects(path, data, PATH)
    )
    for line, record in records:
        for key, kind in known.fields.items():
            value = record.get(key) if isinstance(record, Mapping) else None
            if not _is_of_kind(value, kind):
                wanted = kind if isinstance(kind, str) else " or ".join(map(json.dumps, kind))
                raise DataError(
                    f"{PATH}: {path}, line {line}: {key} is {_shown(value)}; {KEY}={known.name} "
                    f"reads {', '.join(known.fields)}, and {key} is {wanted}"
                )
        found.append({key: record[key] for key in known.fields})
    if not found:
        raise DataError(f"{PATH}: {path} holds no record")
    return found


def harness_file(name: str) -> Path:
    """The file in which the harness defines a task or a group; the extra must be installed.

    Raises:
        ConfigError: If it knows none of that name.
    """
    known = _harness_files()
    if name not in known:
        own = list(defined())
        near = difflib.get_close_matches(name, [*own, *known], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"{KEY}={name}: no such task; {hint}known: {', '.join(own)}, and the {len(known)} "
            f"tasks of lm-evaluation-harness {_harness_version()}"
        )
    return known[name]


@cache
def _harness_files() -> Mapping[str, Path]:
    """File by name of task or group, of all that the harness brings."""
    spec = importlib.util.find_spec(_HARNESS)
    assert spec is not None  # checked before
    found: dict[str, Path] = {}
    for folder in spec.submodule_search_locations or ():
        for path in sorted((Path(folder) / "tasks").rglob("*.yaml")):
            if (match := _NAMED.search(path.read_text("utf-8", errors="replace"))) is not None:
                found.setdefault(match[1], path)
    return found


@cache
def _harness_version() -> str:
    return importlib.metadata.version(_HARNESS)


def _is_of_kind(value: Any, kind: str | Sequence[Any]) -> bool:
    if not isinstance(kind, str):
        return any(type(value) is type(each) and value == each for each in kind)
    is_text = isinstance(value, str)
    are_texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
    are_tags = are_texts and all(map(_TAG.fullmatch, value))
    kinds = {"text": is_text, "texts": are_texts, "text or texts": is_text or are_texts}
    return (kinds | {"tags": are_tags})[kind]


def _either(patterns: str | Sequence[str]) -> str:
    return patterns if isinstance(patterns, str) else _OR.join(patterns)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return "missing" if value is None else text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN]


def _files_in(paths: Sequence[str]) -> Iterator[Path]:
    for typed in paths:
        path = Path(typed)
        if not path.exists():
            raise DataError(f"{PATH} is {typed}: there is no such file or folder")
        yield from (
            sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
        )
