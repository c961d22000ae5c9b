"""Where a specification's backbone and records come from; checked in the driver before Ray starts.

The only module that knows both the made-up world and the files that a user names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables import world
from trainables.datasets import counterfact, facts, streams, zsre
from trainables.errors import DataError
from trainables.interfaces import Edit, EditRecord

EMBEDDED = "embedded:"
NUM_TRAINING_LOCALITY = 8  # prompts that an edit may be trained to leave alone


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
    """

    records: tuple[EditRecord, ...]
    training: tuple[Edit, ...]
    training_locality: tuple[str, ...]
    digest: str
    excluded: tuple[str, ...] = ()
    num_subject_absent: int = 0
    locality_known: float | None = None


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
    """The records of a specification.

    Raises:
        DataError: If the data is missing, broken, or does not fit the backbone.
    """
    dataset = spec["dataset"]
    if dataset["name"] == "facts":
        return _facts_source(spec, cache)
    if not dataset.get("path"):
        raise DataError(f"dataset.path is not set; dataset={dataset['name']} needs a file")
    path = Path(dataset["path"])
    loader = {"zsre": zsre.load, "counterfact": counterfact.load}.get(dataset["name"])
    if loader is None:
        raise DataError(f"dataset {dataset['name']!r} is not known: facts, zsre, counterfact")
    loaded = zsre.load(path, dataset["target_field"]) if loader is zsre.load else loader(path)
    records = loaded.records
    model, known = str(spec["backbone"]["model"]), None
    if model.startswith(EMBEDDED):
        known = world.locality_known(Path(backbone_folder(spec, cache)))
        # A backbone that never read a record's true answer has nothing to edit there.
        lines = world.trained_lines(Path(backbone_folder(spec, cache)))
        records = tuple(
            record
            for record, line in zip(loaded.records, loaded.lines, strict=True)
            if line in lines
        )
    part = streams.split(records, dataset["part"])
    tune = streams.split(records, "tune")
    return Source(
        records=part,
        training=tuple(streams.to_edit(record) for record in tune),
        training_locality=(),
        digest=loaded.digest,
        excluded=tuple(f"{e.file}:{e.line}: {e.reason}" for e in loaded.excluded),
        num_subject_absent=loaded.num_subject_missing,
        locality_known=known,
    )


def _facts_source(spec: Mapping[str, Any], cache: Path) -> Source:
    folder = Path(backbone_folder(spec, cache))
    made_up = facts.build_world()
    prompts = facts.training_locality(made_up)[:NUM_TRAINING_LOCALITY]
    tune = world.facts_records(folder, "tune")
    return Source(
        records=world.facts_records(folder, spec["dataset"]["part"]),
        training=tuple(streams.to_edit(record, prompts) for record in tune),
        training_locality=prompts,
        digest=facts.digest(made_up),
    )
