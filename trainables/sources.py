"""Where a specification's backbone and records come from; checked in the driver before Ray starts.

The only module that knows both the made-up world and the files that a user names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
        is_preview: The embedded backbone was not asked; it may leave questions out.
    """

    records: tuple[EditRecord, ...]
    training: tuple[Edit, ...]
    training_locality: tuple[str, ...]
    digest: str
    excluded: tuple[str, ...] = ()
    num_subject_absent: int = 0
    locality_known: float | None = None
    has_passages: bool = False
    is_preview: bool = False

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
    path = spec["backbone"].get("data_path") or spec["dataset"].get("path")
    return str(
        world.ensure_backbone(
            model.removeprefix(EMBEDDED),
            cache / "backbones",
            seed=int(spec["backbone"].get("seed") or 0),
            data_path=Path(path) if path else None,
            progress=progress,
        )
    )


def open_source(spec: Mapping[str, Any], cache: Path) -> Source:
    """The records of a specification; an embedded backbone is trained on first use.

    Raises:
        DataError: If the data is missing, broken, or does not fit the backbone.
    """
    check_backbone(spec)
    if spec["dataset"]["name"] in world.MADE_UP:
        return _facts_source(spec, cache)
    loaded, known, lines = _loaded(spec["dataset"]), None, None
    if str(spec["backbone"]["model"]).startswith(EMBEDDED):
        folder = Path(backbone_folder(spec, cache))
        known, lines = world.locality_known(folder), world.trained_lines(folder)
    return _file_source(spec, loaded, lines, known)


def preview(spec: Mapping[str, Any]) -> Source:
    """As `open_source`, without an embedded backbone: what it leaves out or asks is not known yet.

    Raises:
        DataError: As `open_source`.
    """
    check_backbone(spec)
    dataset, model = spec["dataset"], str(spec["backbone"]["model"])
    is_embedded = model.startswith(EMBEDDED)
    if dataset["name"] in world.MADE_UP:
        if is_embedded:
            records = facts.records(facts.build_world(), dataset["part"])
        else:
            records = world.facts_records(Path(model), dataset["part"])
        if dataset["name"] in PASSAGES:
            records = hallucination.made_up_passages(records)
        return Source(records, (), (), digest="", is_preview=True)
    loaded = _loaded(dataset)
    lines = frozenset(world.to_be_trained(loaded)) if is_embedded else None
    return replace(_file_source(spec, loaded, lines), is_preview=is_embedded)


def check_backbone(spec: Mapping[str, Any]) -> None:
    """Make sure that the backbone fits the data set, as far as its name tells.

    Raises:
        DataError: If it does not.
    """
    model = str(spec["backbone"]["model"])
    if model.startswith(EMBEDDED):
        world.check_source(model.removeprefix(EMBEDDED), spec["dataset"]["name"])


def _file_source(
    spec: Mapping[str, Any],
    loaded: Loaded,
    lines: frozenset[int] | None,
    locality_known: float | None = None,
) -> Source:
    """The part of a file's records, those of `lines` alone where an embedded backbone read them."""
    dataset = spec["dataset"]
    records = tuple(
        record
        for record, line in zip(loaded.records, loaded.lines, strict=True)
        # A backbone that never read a record's true answer has nothing to edit there.
        if lines is None or line in lines
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
        locality_known=locality_known,
        has_passages=dataset["name"] in PASSAGES,
    )


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


def _facts_source(spec: Mapping[str, Any], cache: Path) -> Source:
    folder = Path(backbone_folder(spec, cache))
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
    )
