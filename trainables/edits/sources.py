"""Opens the backbone and the records that a specification names; the driver checks both first.

The only module that handles the made-up world, the facts of installed packages and the files that a
user names. It tells data sets apart by these three kinds alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import get_args

from trainables.backbones.conversion import prepared
from trainables.datasets import (
    DataSet,
    FileDataSet,
    InstalledDataSet,
    MadeUpDataSet,
    file_datasets,
    get_dataset,
)
from trainables.datasets.facts import made_up
from trainables.draws import streams
from trainables.draws.groups import similarity_groups
from trainables.draws.training import (
    asks_alike,
    scored_prompts,
    training_records,
    unscored_questions,
)
from trainables.edits import embedded
from trainables.edits.known import Knowledge, asked_at_most, check_answers
from trainables.errors import ConfigError, DataError
from trainables.reading.answers import Answers, read_answers
from trainables.reading.loaded import Loaded, check_target_field
from trainables.records import Edit, EditRecord, Question, TrainingRecord
from trainables.spec import DatasetSpec, Part, TrialSpec

NUM_TRAINING_LOCALITY = 8  # prompts that an edit may be trained to leave alone
MAX_TRAINING_LOCALITY = 200  # prompts that these are drawn from


@dataclass(frozen=True)
class Source:
    """Records of one part of a data set, and what may be trained on.

    Attributes:
        records: What trials draw their edits from.
        training: Records of the `tune` part, for `prepare`; with `part: all` see `beside`.
        unrelated: Questions that no trial is scored on, for training on locality.
        digest: SHA-256 of the data and the settings that chose the records.
        num_excluded: Records left out, with their reasons in `excluded`.
        num_subject_absent: Records whose subject does not occur in the prompt.
        locality_known: Share of the locality questions that the backbone answers rightly, where
            that was measured: of embedded backbones, when they were built.
        has_passages: Targets are running text, whose perplexity is measured.
        unchanged: Ids of records of the files whose edit changes nothing, left out or not.
        num_repeated: Records of the second file on whose prompt stood in a file before.
        num_in_all_parts: Different prompts of the whole data set, where it is read from files.
        part: `tune`, `report` or `all`.
        is_preview: The embedded backbone was not asked; it may leave questions out.
        most_asked: Locality questions of a kind that an edit is scored on; None: all it has.
        knowledge: What the backbone knows of the part, where only that is drawn; see `only_known`.
        answers: Those of a serial stream, where a file gives them.
        ranked: How many of the records were ranked by a fall-back, where GECE ranked them.
    """

    records: tuple[EditRecord, ...]
    training: tuple[TrainingRecord, ...]
    unrelated: tuple[Question, ...]
    digest: str
    excluded: tuple[str, ...] = ()
    num_subject_absent: int = 0
    locality_known: float | None = None
    has_passages: bool = False
    unchanged: frozenset[str] = frozenset()
    num_repeated: int = 0
    num_in_all_parts: int = 0
    part: str = ""
    is_preview: bool = False
    most_asked: int | None = None
    knowledge: Knowledge | None = None
    answers: Answers | None = None
    ranked: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def group_of(self) -> dict[str, int]:
        """Group of similar knowledge of each prompt."""
        prompts = (record.prompt for record in self.records)
        return dict(zip(prompts, similarity_groups(self.records), strict=True))

    @property
    def training_locality(self) -> tuple[str, ...]:
        """The prompts of `unrelated`."""
        return tuple(question.prompt for question in self.unrelated)

    def beside(self, drawn: Sequence[EditRecord]) -> Source:
        """This source for a trial that edits `drawn`; not for `part: report`, which trains on tune.

        The others may train on what the draw left: records about other subjects than those drawn,
        and prompts that are not asked of them. Where all records are drawn nothing is left.
        """
        if self.part not in ("all", "tune"):
            return self
        taken = {streams.topic(record) for record in drawn}
        others = [record for record in self.records if streams.topic(record) not in taken]
        scored = scored_prompts(drawn)
        own = tuple(question for question in self.unrelated if question.prompt not in scored)
        few = [question.prompt for question in own[:NUM_TRAINING_LOCALITY]]
        unrelated = own or unscored_questions(others, drawn, MAX_TRAINING_LOCALITY)
        return replace(
            self,
            training=training_records(others, scored, unrelated, few),
            unrelated=unrelated,
        )

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
    spec: TrialSpec,
    cache: Path,
    progress: Callable[[int, int, float], None] | None = None,
    told: prepared.Told | None = None,
) -> str:
    """Folder or model id to load.

    An embedded backbone is trained on first use, one that comes in a GGUF file is converted.

    Args:
        spec: Of a trial.
        cache: Folder of what is made on first use.
        progress: Called after every step of a training.
        told: Called while something is fetched or converted.
    """
    backbone = spec.backbone
    if prepared.needs_conversion(backbone):
        return str(prepared.converted(backbone, cache, told))
    if not backbone.is_embedded:
        return str(backbone.model)
    return str(
        embedded.ensure_backbone(
            backbone.embedded_name,
            cache / "backbones",
            seed=int(backbone.seed or 0),
            data_path=_paths(backbone.data_path) or _paths(spec.dataset.path),
            progress=progress,
        )
    )


def open_source(spec: TrialSpec, cache: Path) -> Source:
    """The records of a specification; an embedded backbone is trained on first use.

    Raises:
        ConfigError: If there is no such data set, or if it cannot obey a key.
        DataError: If the data is missing, broken, or does not fit the backbone.
    """
    return _with_answers(_opened(spec, cache), spec.dataset)


def preview(spec: TrialSpec) -> Source:
    """As `open_source`, but trains no embedded backbone, so what that leaves out is not known yet.

    Raises:
        EditingError: As `open_source`.
    """
    return _with_answers(_previewed(spec), spec.dataset)


def _opened(spec: TrialSpec, cache: Path) -> Source:
    dataset = get_dataset(spec.dataset.module_name)
    if isinstance(dataset, MadeUpDataSet):
        _check_made_up(spec, dataset)
        source = _made_up_source(
            spec, dataset, embedded.known_facts(Path(backbone_folder(spec, cache)))
        )
        return replace(source, digest=_digest(dataset.digest(), spec.dataset))
    if isinstance(dataset, InstalledDataSet):
        return _installed_source(spec, dataset)
    loaded, known, lines = _loaded(spec, dataset), None, None
    if spec.backbone.is_embedded:
        folder = Path(backbone_folder(spec, cache))
        known, lines = embedded.locality_known(folder), embedded.trained_lines(folder)
    return _file_source(spec, dataset, loaded, lines, known)


def _previewed(spec: TrialSpec) -> Source:
    wanted, is_embedded = spec.dataset, spec.backbone.is_embedded
    dataset = get_dataset(wanted.module_name)
    if isinstance(dataset, MadeUpDataSet):
        _check_made_up(spec, dataset)
        known = None if is_embedded else embedded.known_facts(Path(spec.backbone.model))
        source = _made_up_source(spec, dataset, known)
        if wanted.known_only:
            check_answers(wanted.name, source.records)
        return replace(source, is_preview=True)
    if isinstance(dataset, InstalledDataSet):
        return _installed_source(spec, dataset)
    loaded, lines = _loaded(spec, dataset), None
    if is_embedded:  # trained on what the file offers with the published target, whatever is edited
        published = dataset.TARGET_FIELDS[0]
        is_published = wanted.target_field in (None, published)
        read = loaded if is_published else _load(replace(wanted, target_field=published), dataset)
        lines = frozenset(embedded.to_be_trained(read))
    return replace(_file_source(spec, dataset, loaded, lines), is_preview=is_embedded)


def _with_answers(source: Source, dataset: DatasetSpec) -> Source:
    """`source` with the file of answers, where one is named, and checked against all parts."""
    if dataset.answers is None:
        return source
    answers, kind = read_answers(Path(dataset.answers)), get_dataset(dataset.module_name)
    records: Sequence[EditRecord]
    if isinstance(kind, MadeUpDataSet):
        # A passage is made of the edits of its part: each part asks its own.
        records = [record for part in get_args(Part) for record in kind.records(part)]
    elif isinstance(kind, InstalledDataSet):
        records = kind.loaded().records
    else:
        records = _load(dataset, kind).records
    answers.check_known(records, dataset.name)
    digest = hashlib.sha256(f"{source.digest} answers {answers.digest}".encode()).hexdigest()
    return replace(source, answers=answers, digest=digest)


def _check_backbone(spec: TrialSpec, wanted: str) -> None:
    """Check by its name that an embedded backbone was trained on what is edited.

    Raises:
        DataError: If it has not.
    """
    backbone, dataset = spec.backbone, spec.dataset
    if not backbone.is_embedded:
        return
    embedded.check_source(backbone.embedded_name, dataset.name, wanted)
    own = backbone.data_path
    if own and wanted != embedded.WORLD and own != dataset.path:
        raise DataError(
            f"backbone.data_path is {own} and dataset.path {dataset.path}: a backbone that "
            "was trained on one file has nothing to edit in another; leave backbone.data_path out"
        )


def _paths(path: str | Sequence[str] | None) -> Path | tuple[Path, ...] | None:
    """The file or files that a data set is read from."""
    if not path:
        return None
    return Path(path) if isinstance(path, str) else tuple(Path(each) for each in path)


def _installed_source(spec: TrialSpec, kind: InstalledDataSet) -> Source:
    """The part of the facts of installed packages; with `known_only` all questions they offer."""
    dataset = spec.dataset
    _check_backbone(spec, dataset.module_name)
    if dataset.path:
        raise ConfigError(
            f"dataset.path is {dataset.path}; dataset={dataset.name} reads no file; data sets "
            f"that do: {', '.join(file_datasets())}"
        )
    _check_keys(dataset, kind)
    loaded = kind.loaded()
    if not dataset.known_only:
        loaded = replace(loaded, records=asked_at_most(loaded.records, kind.MOST_ASKED))
    return replace(_file_source(spec, kind, loaded, None), most_asked=kind.MOST_ASKED)


def _file_source(
    spec: TrialSpec,
    kind: DataSet,
    loaded: Loaded,
    lines: frozenset[int] | None,
    locality_known: float | None = None,
) -> Source:
    """The part of a file's records, those of `lines` alone where an embedded backbone read them."""
    dataset = spec.dataset
    if not dataset.keep_unchanged:
        loaded = loaded.without_unchanged()
    records = tuple(
        record
        for record, line in zip(loaded.records, loaded.lines, strict=True)
        # A backbone that never read a record's true answer has nothing to edit there.
        if lines is None or line in lines
    )
    part = streams.split(records, dataset.part)
    if dataset.known_only:
        check_answers(dataset.name, records)
    if not part:
        raise DataError(
            f"dataset.part is {dataset.part!r}; none of the {len(records)} records of "
            f"dataset={dataset.name} falls into it, as a subject is in one part alone: "
            "dataset.part=all takes them all"
        )
    # Without a split whatever is trained on would be scored; see `Source.beside`.
    tune = () if dataset.part == "all" else streams.split(records, "tune")
    unrelated = unscored_questions(records, part, MAX_TRAINING_LOCALITY)
    digest = _digest(loaded.digest, dataset)
    if asks_alike(records):  # before, such prompts were trained on, too
        digest = hashlib.sha256(f"{digest} beside what is asked".encode()).hexdigest()
    scored = scored_prompts(part) if dataset.part == "report" else frozenset[str]()
    return Source(
        records=part,
        training=training_records(tune, scored, unrelated),
        unrelated=unrelated,
        digest=digest,
        unchanged=frozenset(loaded.unchanged),
        num_repeated=loaded.num_repeated,
        num_in_all_parts=len({record.prompt for record in records}),
        part=dataset.part,
        excluded=tuple(f"{e.file}:{e.line}: {e.reason}" for e in loaded.excluded),
        num_subject_absent=loaded.num_subject_missing,
        locality_known=locality_known,
        has_passages=kind.HAS_PASSAGES,
    )


def _loaded(spec: TrialSpec, kind: FileDataSet) -> Loaded:
    """The records of the files of `spec`, which fit its backbone."""
    loaded = _load(spec.dataset, kind)
    _check_backbone(spec, spec.dataset.module_name)
    return loaded


def _load(dataset: DatasetSpec, kind: FileDataSet) -> Loaded:
    """The records of the files that `dataset` names."""
    paths = _paths(dataset.path)
    if paths is None:
        raise DataError(f"dataset.path is not set; dataset={dataset.name} needs a file")
    _check_keys(dataset, kind)
    return kind.load(paths, dataset.target_field)


def _check_made_up(spec: TrialSpec, kind: MadeUpDataSet) -> None:
    """Raises an EditingError for a key or a backbone that does not fit the made-up world."""
    dataset = spec.dataset
    _check_backbone(spec, embedded.WORLD)
    if dataset.path:
        raise ConfigError(
            f"dataset.path is {dataset.path}; dataset={dataset.name} is made up and reads no "
            f"file; data sets that do: {', '.join(file_datasets())}"
        )
    _check_keys(dataset, kind)


def _check_keys(dataset: DatasetSpec, kind: DataSet) -> None:
    """Raises ConfigError for a version that is not the module's, or a target that it lacks."""
    name, typed = dataset.name, dataset.target_field
    if dataset.version not in (None, kind.VERSION):
        raise ConfigError(
            f"dataset.version is {dataset.version}; dataset={name} is at version "
            f"{kind.VERSION}, which cannot be chosen"
        )
    check_target_field(name, typed or kind.TARGET_FIELDS[0], kind.TARGET_FIELDS)


def _made_up_source(spec: TrialSpec, kind: MadeUpDataSet, known: Collection[str] | None) -> Source:
    """The records of one part, asked of what is `known` alone (None: of all); without a digest."""
    unrelated, part = made_up.unscored(made_up.build_world()), spec.dataset.part
    few = [question.prompt for question in unrelated[:NUM_TRAINING_LOCALITY]]
    records = kind.records(part, known)
    tune = () if part == "all" else kind.records("tune", known)  # see `Source.beside`
    scored = scored_prompts(records) if part == "report" else frozenset[str]()
    return Source(
        records=records,
        training=training_records(tune, scored, unrelated, few),
        unrelated=unrelated,
        digest="",
        has_passages=kind.HAS_PASSAGES,
        part=part,
    )


def _digest(digest: str, dataset: DatasetSpec) -> str:
    """Of the data and of what chose the records; which ones a backbone knows, it decides itself."""
    if dataset.part == "tune":  # before, what was drawn of it was trained on, too
        digest = hashlib.sha256(f"{digest} beside what is drawn".encode()).hexdigest()
    if dataset.part == "all" and dataset.frequency_band and dataset.frequency_source == "gece":
        # before, alpha was 1 for each of them
        digest = hashlib.sha256(f"{digest} ranked by its own words".encode()).hexdigest()
    if not dataset.known_only:
        return digest
    return hashlib.sha256(f"{digest} known only".encode()).hexdigest()
