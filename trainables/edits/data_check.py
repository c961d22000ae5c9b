"""Checks that trials find enough data that fits; free of torch, for the driver and --dry-run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.draws.training import learned_and_held_out
from trainables.edits.drawing import draw
from trainables.edits.sources import Source, open_source, preview
from trainables.errors import DataError
from trainables.reading.loaded import has_subject
from trainables.spec import TrialSpec

LEAST_KNOWN = 0.3  # share of locality questions below which locality says little
# Scores that a data set may ask no question of; reliability is asked of every edit.
QUESTIONS = frozenset(
    {"generality", "locality_near", "locality_same", "locality_far", "portability"}
)
# Modules whose method is nothing without the subject's place.
NEED_SUBJECTS = ("alphaedit", "comeba_hk", "memit", "rome")
# Modules that train a network on what no trial is scored on -> the records of a step, a product.
TRAIN_AHEAD = {
    "malmen": ("edits_at_once", "problems_per_step"),
    "mend": ("edits_at_once", "problems_per_step"),
    "serac": ("records_per_step",),
}
CHOOSE_AHEAD = ("retrieval",)  # modules that choose a threshold there where none is given


class DataCheck:
    """Opens the data of specifications and tries their draws, each data set and draw once."""

    def __init__(self, cache: Path, compared: Sequence[str] = ()) -> None:
        """Nothing is read yet.

        Args:
            cache: Folder of embedded backbones.
            compared: Numbers of a trial that a scheduler or a search compares the mean of, such as
                `reliability.token`; none where nothing is compared.
        """
        self._cache = cache
        self._compared = compared
        self._sources: dict[str, Source] = {}
        self._drawn = set[str]()
        self._said: set[str] = set()
        self._excluded: dict[str, None] = {}

    @property
    def excluded(self) -> list[str]:
        """Records that were left out so far, with file, line and reason."""
        return list(self._excluded)

    def check(self, spec: TrialSpec, *, trains: bool = False) -> list[str]:
        """Warnings about the data that a reader of the table should know; each is given once.

        Args:
            spec: A trial's specification.
            trains: Whether an embedded backbone is asked too, for which it is trained on first
                use. Without it all is checked that needs none: the file can be read, its part
                holds records, and they suffice.

        Raises:
            EditingError: As the trial itself would.
        """
        source = self.source(spec, trains=trains)
        _check_subjects(source, spec)
        _check_compared(source, spec, self._compared)
        key = repr((self._key(spec), source.is_preview, spec.protocol, spec.seed, _trains(spec)))
        if key in self._drawn:
            return []
        _check_training(source.beside(draw(spec, source).records), spec)
        self._drawn.add(key)
        new = [text for text in _warnings(source, spec) if text not in self._said]
        self._said.update(new)
        self._excluded.update(dict.fromkeys(source.excluded))
        return new

    def source(self, spec: TrialSpec, *, trains: bool = False) -> Source:
        """The records of `spec`; a preview until they are asked for with `trains`.

        Raises:
            EditingError: If they cannot be read, or do not fit the backbone.
        """
        key = self._key(spec)
        if key not in self._sources or (trains and self._sources[key].is_preview):
            self._sources[key] = open_source(spec, self._cache) if trains else preview(spec)
        return self._sources[key]

    @staticmethod
    def _key(spec: TrialSpec) -> str:
        return repr((spec.dataset, spec.backbone))


def _check_subjects(source: Source, spec: TrialSpec) -> None:
    """Raises DataError where a method that writes at subjects would find none."""
    if spec.method.module in NEED_SUBJECTS and not any(map(has_subject, source.records)):
        raise DataError(
            f"method={spec.method.name} writes where the subject stands, and the prompts of "
            f"all {len(source.records)} records of dataset={spec.dataset.name} lack theirs"
        )


def _trains(spec: TrialSpec) -> str:
    """The method, where it has something of the data checked that others have not."""
    return repr(spec.method) if spec.method.module in (*TRAIN_AHEAD, *CHOOSE_AHEAD) else ""


def _check_training(source: Source, spec: TrialSpec) -> None:
    """Raises DataError where a method would have too little to learn from ahead of the edits."""
    settings: Any = spec.method.settings
    if spec.method.module in CHOOSE_AHEAD and not source.training and settings["threshold"] is None:
        raise DataError(
            "method.threshold is null: it is chosen on records that no trial is scored on, and "
            "there are none; dataset.part=report leaves it the whole tune part"
        )
    if spec.method.module in TRAIN_AHEAD:
        learned_and_held_out(
            source.training,
            settings["held_out"],
            settings["most_held_out"],
            math.prod(settings[key] for key in TRAIN_AHEAD[spec.method.module]),
            spec.method.name,
        )
        if not any(record.unrelated for record in source.training):
            raise DataError(
                f"method {spec.method.name} trains a network to leave unrelated questions alone; "
                f"dataset={spec.dataset.name} asks none that no trial is scored on"
            )


def _check_compared(source: Source, spec: TrialSpec, numbers: Sequence[str]) -> None:
    """Raises DataError where no record has what a scheduler compares."""
    numbers = [spec.dataset.named_here(number) for number in numbers]
    asked = {number.partition(".")[0] for number in numbers}
    if asked and asked <= QUESTIONS and not any(_has(source, score) for score in asked):
        raise DataError(
            f"scheduler.metric compares {', '.join(numbers)}; none of the {len(source.records)} "
            f"records of dataset={spec.dataset.name} has such questions"
        )
    if asked == {"perplexity"} and not source.has_passages:
        raise DataError(
            f"scheduler.metric compares {', '.join(numbers)}; the targets of dataset="
            f"{spec.dataset.name} are no running text, so that none is measured"
        )


def _has(source: Source, score: str) -> bool:
    """Whether some record asks a question of this kind."""
    if score == "generality":
        return any(record.rephrases for record in source.records)
    questions = ((*record.locality, *record.portability) for record in source.records)
    return any(question.kind == score for each in questions for question in each)


def _warnings(source: Source, spec: TrialSpec) -> list[str]:
    name, found = spec.dataset.name, []
    if not any(map(has_subject, source.records)):
        num = len(source.records)
        found.append(
            f"dataset={name}: the prompts of all {num} records lack their subject; methods that "
            "look for it take the last token of the prompt, or the whole prompt"
        )
    if source.unchanged:
        kept = sum(record.record_id in source.unchanged for record in source.records)
        found.append(
            f"dataset={name}: {kept} edits of dataset.part={source.part} change nothing, as their "
            "target was true before"
            if spec.dataset.keep_unchanged
            else f"dataset={name}: {len(source.unchanged)} edits that would change nothing are "
            "left out; dataset.keep_unchanged=true keeps them"
        )
    if source.num_repeated:
        found.append(
            f"dataset={name}: {source.num_repeated} records ask what a file before theirs asks "
            "too; a trial draws one record per prompt"
        )
    if source.excluded:
        found.append(f"dataset={name}: {len(source.excluded)} records are left out in every arm")
    known = source.locality_known
    if known is not None and known < LEAST_KNOWN:
        found.append(
            f"backbone={spec.backbone.name} answers {known:.0%} of the locality "
            f"questions of dataset={name}: below {LEAST_KNOWN:.0%}, locality compares guesses"
        )
    return found
