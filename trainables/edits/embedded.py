"""The embedded backbones: small models that this project trains itself on facts it knows.

`facts`, `facts_wd5`, `facts_gpt2` and `facts_tiny` read the made-up world. `facts_zsre` and
`facts_counterfact` read the first 1,000 usable records of a file that the user names, in its order:
the question with the true answer (of ZsRE: `src` and `answers[0]`) and the locality question with
its answer. They never read an edit target or a rephrase. Repeated prompts are read once, with the
first answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from trainables.backbones.embedded import recipe as recipes
from trainables.backbones.embedded.recipe import Progress, Recipe, Row
from trainables.datasets import FileDataSet, get_dataset
from trainables.datasets.facts import made_up
from trainables.errors import BackboneError, DataError
from trainables.reading.loaded import Loaded, Paths
from trainables.records import EditRecord

VERSION = 1
NUM_FILE_RECORDS = 1000
WORLD = "facts"  # what a backbone has read that can be asked about the made-up world
_PROBE_STRIDE = 4  # every fourth trained question of the made-up world: enough for its recall

_KNOWN_FILE = "known.json"
_LINES_FILE = "lines.json"


@dataclass(frozen=True)
class Embedded:
    """An embedded backbone: its recipe, and what it is trained on: `WORLD` or a data set."""

    recipe: Recipe
    source: str = WORLD


_WORLD = Recipe()
_FILE = Recipe(num_layers=12, vocabulary_size=4096, token_drop=0.15)
EMBEDDED: dict[str, Embedded] = {
    # Embeddings that learn faster need fewer steps: two cores take about two minutes.
    "facts": Embedded(replace(_WORLD, num_steps=230, vector_lr=6e-3)),
    # More steps: decay slows learning, and the residual norms fall until its end.
    "facts_wd5": Embedded(replace(_WORLD, num_steps=450, weight_decay=0.5, token_drop=0.1)),
    "facts_gpt2": Embedded(replace(_WORLD, architecture="gpt2", num_layers=12, ffn_size=512)),
    # Knows a third of the facts after some 15 seconds: whether everything works, not how well.
    "facts_tiny": Embedded(
        replace(
            _WORLD,
            num_layers=4,
            hidden_size=64,
            ffn_size=176,
            num_steps=120,
            matrix_lr=0.04,
            vector_lr=8e-3,
        )
    ),
    "facts_zsre": Embedded(_FILE, "zsre"),
    "facts_counterfact": Embedded(_FILE, "counterfact"),
}


@dataclass(frozen=True)
class _Probe:
    """A question whose answer is measured after training."""

    fact_id: str
    prompt: str
    answer: str
    kind: Literal["train", "held_out", "locality"]


@dataclass(frozen=True)
class _Material:
    """The rows that one backbone is trained on, and the questions that measure it."""

    rows: tuple[Row, ...]
    probes: tuple[_Probe, ...]
    lines: tuple[int, ...] = ()  # of the user's file, counted from 1


def ensure_backbone(
    name: str,
    cache: Path,
    *,
    seed: int = 0,
    data_path: Paths | None = None,
    progress: Progress | None = None,
) -> Path:
    """Folder of the embedded backbone `name`, trained there on first use.

    The folder's name holds a hash of recipe, rows and versions. Beside the checkpoint lie
    `report.json` (shares of questions answered right to the end token: `train_exact`,
    `held_out_exact`, `locality_exact`; and what the training cost), `known.json` (ids of the
    locality questions answered right) and, of a backbone made from a file, `lines.json`. A second
    process that wants the same backbone waits for the first.

    Args:
        name: A key of `EMBEDDED`.
        cache: Folder of all embedded backbones.
        seed: Of initialisation and order of rows.
        data_path: File or files to read; `facts_zsre` and `facts_counterfact` need one, others
            ignore it.
        progress: Called after every training step with step, steps in all, and loss.

    Raises:
        BackboneError: If there is no such backbone, or the file it reads is not given.
        DataError: If the file is missing or broken.
    """
    from filelock import FileLock

    embedded = _known(name)
    material = _material(name, embedded, data_path)
    recipe = replace(embedded.recipe, seed=seed)
    folder = cache / f"{name}-{_key(recipe, material)[:16]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    # Advisory and released by the system when its holder dies: no stale lock is left behind.
    with FileLock(cache / f".{folder.name}.lock"):
        if not folder.is_dir():
            _build(recipe, material, folder, progress)
    return folder


def known_facts(folder: Path) -> frozenset[str]:
    """Ids of the facts of the made-up world that the backbone in `folder` answers rightly.

    Raises:
        DataError: If that backbone was not trained on the made-up world.
    """
    known = _stored(folder, _KNOWN_FILE)
    if known is None or trained_lines_or_none(folder) is not None:
        raise DataError(
            "dataset=facts needs a backbone that read the made-up world ("
            + ", ".join(name for name, made in EMBEDDED.items() if made.source == WORLD)
            + f"); {folder} did not"
        )
    return frozenset(known)


def facts_records(folder: Path, part: made_up.Part | Literal["all"]) -> tuple[EditRecord, ...]:
    """Edits of the made-up world whose locality questions the backbone in `folder` answers.

    Raises:
        DataError: If that backbone was not trained on the made-up world.
    """
    return made_up.records(made_up.build_world(), part, known_facts(folder))


def to_be_trained(loaded: Loaded) -> dict[int, EditRecord]:
    """Line and record of all that a backbone made from this file is trained on."""
    usable = (
        (line, record)
        for record, line in zip(loaded.records, loaded.lines, strict=True)
        if record.true_answer is not None
    )
    return dict(islice(usable, NUM_FILE_RECORDS))


def check_source(name: str, dataset: str, wanted: str) -> None:
    """Make sure that the embedded backbone `name` has read what is edited.

    Args:
        name: Of the backbone.
        dataset: Name of the data set.
        wanted: `WORLD`, or the module of the data set.

    Raises:
        BackboneError: If there is no such backbone.
        DataError: If it has not: there would be nothing to edit.
    """
    source = _known(name).source
    if source != wanted:
        fitting = [f"backbone={other}" for other, made in EMBEDDED.items() if made.source == wanted]
        allowed = " or ".join([*fitting, *(["a real model"] if wanted != WORLD else [])])
        raise DataError(
            f"dataset={dataset} with backbone={name}: it was trained on {source}; use {allowed}"
        )


def _known(name: str) -> Embedded:
    if name not in EMBEDDED:
        raise BackboneError(
            f"backbone.model is 'embedded:{name}'; allowed: "
            + ", ".join(f"embedded:{known}" for known in EMBEDDED)
        )
    return EMBEDDED[name]


def trained_lines(folder: Path) -> frozenset[int]:
    """Lines (in a JSON list: positions), from 1, of the records that the backbone was trained on.

    Raises:
        DataError: If the backbone was not trained on a file.
    """
    lines = trained_lines_or_none(folder)
    if lines is None:
        made = ", ".join(f"backbone={name}" for name, e in EMBEDDED.items() if e.source != WORLD)
        raise DataError(
            f"{folder} was not trained on a file: this data set needs {made} or a real model"
        )
    return lines


def trained_lines_or_none(folder: Path) -> frozenset[int] | None:
    """As `trained_lines`; None for a backbone that was not trained on a file."""
    lines = _stored(folder, _LINES_FILE)
    return None if lines is None else frozenset(lines)


def embedded_name(folder: Path) -> str | None:
    """Name of the embedded backbone whose recipe lies in `folder`, whatever that is called.

    Of several made by one recipe from different files it is the first; None for another model.
    """
    try:
        made = _stored(folder, "recipe.json")
    except ValueError:  # another program's
        return None
    seed = made.get("seed") if isinstance(made, dict) else None
    is_of_world = trained_lines_or_none(folder) is None
    for name, embedded in EMBEDDED.items():
        is_same = made == {**asdict(embedded.recipe), "seed": seed}
        if is_same and is_of_world == (embedded.source == "facts"):
            return name
    return None


def locality_known(folder: Path) -> float | None:
    """Share of the locality questions that the backbone answered rightly when it was built."""
    share = _stored(folder, "report.json")["locality_exact"]
    return None if share is None else float(share)


def _material(name: str, embedded: Embedded, data_path: Paths | None) -> _Material:
    if embedded.source == WORLD:
        return _world_material()
    if data_path is None:
        raise BackboneError(f"dataset.path is not set; backbone={name} is trained on that file")
    return _file_material(embedded.source, data_path)


def _world_material() -> _Material:
    world = made_up.build_world()
    probes: list[_Probe] = []
    for number, probe in enumerate(made_up.probe_rows(world)):
        question = (probe.fact_id, probe.prompt, probe.answer)
        if probe.is_held_out:
            probes.append(_Probe(*question, kind="held_out"))
        elif number % _PROBE_STRIDE == 0:
            probes.append(_Probe(*question, kind="train"))
        if probe.is_scored:
            probes.append(_Probe(*question, kind="locality"))
    return _Material(made_up.training_rows(world), tuple(probes))


def _file_material(source: str, path: Paths) -> _Material:
    dataset = get_dataset(source)
    assert isinstance(dataset, FileDataSet)
    loaded = dataset.load(path)
    answers: dict[str, str] = {}
    probes: list[_Probe] = []
    chosen = to_be_trained(loaded)
    for record in chosen.values():
        assert record.true_answer is not None
        answers.setdefault(record.prompt, record.true_answer)
        probes += [_Probe(record.record_id, record.prompt, record.true_answer, "train")]
        for text in record.rephrases:
            probes.append(_Probe(record.record_id, text, record.true_answer, "held_out"))
        for question in record.locality:
            answers.setdefault(question.prompt, question.answer)
            locality = (record.record_id, question.prompt, question.answer)
            probes.append(_Probe(*locality, kind="locality"))
    if not chosen:
        raise DataError(f"dataset.path is {path}: no record of it has a true answer to learn")
    rows = tuple((prompt, answer, 1.0) for prompt, answer in answers.items())
    return _Material(rows, tuple(probes), tuple(chosen))


def _build(recipe: Recipe, material: _Material, folder: Path, progress: Progress | None) -> None:
    """Trains and measures beside `folder`, then renames: it appears whole or not at all."""
    from trainables.backbones.embedded import (
        facts as trainer,  # torch: two seconds, for training alone
    )

    aside = folder.with_name(f".{folder.name}.part")  # one builder at a time: see the lock
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        trainer.train(recipe, material.rows, aside, progress)
        cost = {
            "cpu_seconds": time.process_time() - cpu,
            "wall_seconds": time.perf_counter() - wall,
        }
        pairs = [(probe.prompt, probe.answer) for probe in material.probes]
        correct = trainer.recall(aside, pairs, recipe.max_tokens)
        report = json.loads((aside / "report.json").read_text())
        report |= _shares(material.probes, correct) | cost
        known = [
            probe.fact_id
            for probe, is_right in zip(material.probes, correct, strict=True)
            if is_right and probe.kind == "locality"
        ]
        _store(aside / "report.json", report)
        _store(aside / _KNOWN_FILE, sorted(known))
        if material.lines:
            _store(aside / _LINES_FILE, list(material.lines))
        # What the backbone read, for methods that need second moments of its activations.
        sentences = (f"{prompt} {answer}\n" for prompt, answer, _ in material.rows)
        (aside / "training_text.txt").write_text("".join(sentences))
        aside.rename(folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(aside)


def _shares(probes: Sequence[_Probe], correct: Iterable[bool]) -> dict[str, float]:
    """Share of right answers by kind of question."""
    by_kind: dict[str, list[bool]] = {}
    for probe, is_right in zip(probes, correct, strict=True):
        by_kind.setdefault(probe.kind, []).append(is_right)
    return {f"{kind}_exact": sum(right) / len(right) for kind, right in by_kind.items()}


def _key(recipe: Recipe, material: _Material) -> str:
    """SHA-256 of all that decides the folder's content."""
    content: Any = [
        [VERSION, recipes.VERSION],
        asdict(recipe),
        material.rows,
        [(probe.prompt, probe.answer, probe.kind) for probe in material.probes],
        material.lines,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _store(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def _stored(folder: Path, name: str) -> Any:
    path = folder / name
    return json.loads(path.read_text()) if path.is_file() else None
