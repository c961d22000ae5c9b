"""Where a specification's backbone and records come from; checked in the driver before Ray starts.

The only module that knows both the made-up world and the files that a user names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trainables import world
from trainables.datasets import (
    counterfact,
    facts,
    hallucination,
    streams,
    wiki_counterfact,
    zsre,
)
from trainables.datasets.groups import similarity_groups
from trainables.datasets.loaded import Loaded
from trainables.errors import DataError
from trainables.records import Edit, EditRecord

EMBEDDED = "embedded:"
PASSAGES = ("facts_passages", "hallucination")
NUM_TRAINING_LOCALITY = 8  # prompts that an edit may be trained to leave alone
MAX_TRAINING_LOCALITY = 200  # prompts that these are drawn from


@dataclass(frozen=True)
class Source:
    """Records of one part of a data set, and what may be trained on.

    Attributes:
        records: What trials draw their edits from.
        training: Edits of the `tune` part, for `prepare`.
        training_locality: Unrelated prompts that no trial is scored on.
        digest: SHA-256 of the data and the settings that chose the records.
        num_excluded: Records left out, with their reasons in `excluded`.
        num_subject_absent: Records whose subject does not occur in the prompt.
        locality_known: Share of the locality questions that the backbone answers rightly, where
            that was measured: of embedded backbones, when they were built.
        has_passages: Targets are running text, whose perplexity is measured.
        provisional: The embedded backbone is not trained yet; it may leave questions out.
    """

    records: tuple[EditRecord, ...]
    training: tuple[Edit, ...]
    training_locality: tuple[str, ...]
    digest: str
    excluded: tuple[str, ...] = ()
    num_subject_absent: int = 0
    locality_known: float | None = None
    has_passages: bool = False
    provisional: bool = False

    @cached_property
    def group_of(self) -> dict[str, int]:
        """Group of similar knowledge of each prompt."""
        prompts = (record.prompt for record in self.records)
        return dict(zip(prompts, similarity_groups(self.records), strict=True))

    def to_edit(self, record: EditRecord) -> Edit:
        """What a method may see of `record`, with a few unrelated prompts of its own.

        They differ from edit to edit: eight prompts trained on over and over would be learned by
        heart.
        """

        def rank(prompt: str) -> str:
            return hashlib.sha256(f"{record.prompt}\0{prompt}".encode()).hexdigest()

        drawn = sorted(self.training_locality, key=rank)[:NUM_TRAINING_LOCALITY]
        return streams.to_edit(record, drawn)


def backbone_folder(
    spec: Mapping[str, Any],
    cache: Path,
    progress: Callable[[int, int, float], None] | None = None,
) -> str:
    """Folder or model id to load; an embedded backbone is trained on first use."""
    model = str(spec["backbone"]["model"])
    if not model.startswith(EMBEDDED):
        return model
    name, settings = _embedded(spec)
    return str(world.ensure_backbone(name, cache / "backbones", **settings, progress=progress))


def open_source(spec: Mapping[str, Any], cache: Path, *, trains: bool = True) -> Source:
    """The records of a specification.

    Args:
        spec: With `backbone` and `dataset`.
        cache: Folder of embedded backbones.
        trains: Whether an embedded backbone that is missing is trained first, as it decides which
            records have something to edit and which locality questions are asked. Without it the
            source of a missing one is `provisional`.

    Raises:
        DataError: If the data is missing, broken, or does not fit the backbone.
    """
    dataset, model = spec["dataset"], str(spec["backbone"]["model"])
    if model.startswith(EMBEDDED):
        # Whatever is wrong with the data is said before two minutes of training.
        world.check_source(model.removeprefix(EMBEDDED), dataset["name"])
    if dataset["name"] in world.MADE_UP:
        return _facts_source(spec, cache, trains)
    loaded = _loaded(dataset)
    records, known, provisional = loaded.records, None, False
    if model.startswith(EMBEDDED):
        name, settings = _embedded(spec)
        plan = world.blueprint(name, cache / "backbones", **settings)
        if trains or plan.is_built:
            known = world.locality_known(Path(backbone_folder(spec, cache)))
        provisional = known is None
        # A backbone that never read a record's true answer has nothing to edit there.
        records = tuple(
            record
            for record, line in zip(loaded.records, loaded.lines, strict=True)
            if line in plan.lines
        )
    part = streams.split(records, dataset["part"])
    tune = streams.split(records, "tune")
    return Source(
        records=part,
        training=tuple(streams.to_edit(record) for record in tune),
        training_locality=_unscored_locality(records, part),
        digest=loaded.digest,
        excluded=tuple(f"{e.file}:{e.line}: {e.reason}" for e in loaded.excluded),
        num_subject_absent=loaded.num_subject_missing,
        locality_known=known,
        has_passages=dataset["name"] in PASSAGES,
        provisional=provisional,
    )


def _embedded(spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name of the embedded backbone, and what decides how it is trained."""
    path = spec["backbone"].get("data_path") or spec["dataset"].get("path")
    settings = {
        "seed": int(spec["backbone"].get("seed") or 0),
        "data_path": Path(path) if path else None,
    }
    return str(spec["backbone"]["model"]).removeprefix(EMBEDDED), settings


def _loaded(dataset: Mapping[str, Any]) -> Loaded:
    """The records of a file, by the name of its data set."""
    loaders: dict[str, Callable[[Path], Loaded]] = {
        "zsre": lambda path: zsre.load(path, dataset["target_field"]),
        "counterfact": counterfact.load,
        "wiki_counterfact": lambda path: wiki_counterfact.load(path, dataset["target_field"]),
        "hallucination": hallucination.load,
    }
    name = dataset["name"]
    if name not in loaders:
        raise DataError(f"dataset {name!r} is not known: {', '.join((*world.MADE_UP, *loaders))}")
    if not dataset.get("path"):
        raise DataError(f"dataset.path is not set; dataset={name} needs a file")
    return loaders[name](Path(dataset["path"]))


def _unscored_locality(
    records: Sequence[EditRecord], scored: Sequence[EditRecord]
) -> tuple[str, ...]:
    """Locality prompts of records outside `scored`, none of which is asked of those inside."""
    own = {record.record_id for record in scored}
    asked = {question.prompt for record in scored for question in record.locality}
    other = [
        question.prompt
        for record in records
        if record.record_id not in own
        for question in record.locality
        if question.prompt not in asked
    ]
    return tuple(dict.fromkeys(other))[:MAX_TRAINING_LOCALITY]


def _facts_source(spec: Mapping[str, Any], cache: Path, trains: bool) -> Source:
    model = str(spec["backbone"]["model"])
    folder: Path | None = Path(model)
    if model.startswith(EMBEDDED):
        name, settings = _embedded(spec)
        plan = world.blueprint(name, cache / "backbones", **settings)
        is_there = trains or plan.is_built
        folder = Path(backbone_folder(spec, cache)) if is_there else None
    made_up = facts.build_world()
    prompts = facts.training_locality(made_up)
    few = prompts[:NUM_TRAINING_LOCALITY]
    name, part = spec["dataset"]["name"], spec["dataset"]["part"]
    records, tune = (world.facts_records(folder, wanted) for wanted in (part, "tune"))
    digest = facts.digest(made_up)
    if name in PASSAGES:
        records, tune = (hallucination.made_up_passages(edits) for edits in (records, tune))
        digest = hashlib.sha256(f"{digest} {name} {hallucination.VERSION}".encode()).hexdigest()
    return Source(
        records=records,
        training=tuple(streams.to_edit(record, few) for record in tune),
        training_locality=prompts,
        digest=digest,
        has_passages=name in PASSAGES,
        provisional=folder is None,
    )
