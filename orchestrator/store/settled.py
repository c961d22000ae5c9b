"""Decides from the ledger alone which trials are settled, so that they need not run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from orchestrator.planning.identity import canonical, fingerprint, identity_fields
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.store.ledger import History, Others
from orchestrator.store.ledger_rows import EndRow
from orchestrator.store.rows import Row


@dataclass(frozen=True)
class Options:
    """The options that are typed beside the configuration."""

    retry_failed: bool = False
    complete_stopped: bool = False
    fresh: bool = False


def ended(specs: Sequence[TrialSpec], history: History) -> list[EndRow | None]:
    """The end row of each specification; None if no driver has ended it.

    A fingerprint also covers weights, data and versions; these are taken from the rows themselves,
    so that nothing has to be loaded. A row of other files counts for nothing: of a checkpoint or
    data file that is still there, or of one that bore another name.
    """
    known = {canonical(end.resolved): end.resolved for end in history.ends.values()}
    found: list[EndRow | None] = []
    for spec in specs:
        keys = [fingerprint(spec, resolved) for resolved in known.values()]
        ends = [history.ends[key] for key in keys if key in history.ends]
        ends = [end for end in ends if _may_be_of(end.spec, spec)]
        found.append(max(ends, key=lambda end: end.time, default=None))
    return found


def searched(
    ablation: str, specs: Sequence[TrialSpec], swept: Collection[str], history: History
) -> list[EndRow]:
    """The end rows of a search, as a table takes them: of one setting, and the newest of an arm.

    What Optuna drew is not known beforehand. A row counts if this ablation wrote it and its
    backbone, data and protocol are those of one of `specs`; if something else that an arm does not
    name was changed, only what ran under the newest of its settings.

    Args:
        ablation: The search's.
        specs: Trials of it, on each of its parts of the data.
        swept: Keys that are drawn, and so differ from trial to trial.
        history: What the store holds.
    """
    settings: dict[str, dict[str, list[TrialSpec]]] = {}  # `specs` by what is looked up, setting
    newest: dict[tuple[str, str], tuple[float, str]] = {}  # time and setting of each arm
    found: list[tuple[tuple[str, str], str, EndRow]] = []
    for end in history.ends.values():
        if not is_of(end, ablation):
            continue
        spec, looked_up = TrialSpec.from_dict(end.spec), canonical(end.resolved)
        if looked_up not in settings:
            known = settings[looked_up] = {}
            for each in specs:
                known.setdefault(_setting(each, swept, end.resolved), []).append(each)
        alike = settings[looked_up].get(_setting(spec, swept, end.resolved), ())
        if not any(_may_be_of(end.spec, each) for each in alike):
            continue
        arm = (spec.arm, str(spec.dataset.get("part")))
        whole = fingerprint(replace(spec, seed=0), end.resolved)
        found.append((arm, whole, end))
        newest[arm] = max(newest.get(arm, (end.time, whole)), (end.time, whole))
    return [end for arm, whole, end in found if newest[arm][1] == whole]


def _setting(spec: TrialSpec, swept: Collection[str], resolved: Mapping[str, Any]) -> str:
    """Backbone, data and protocol of a trial as text, without what is drawn."""
    names = {"backbone_fingerprint": resolved.get("backbone_fingerprint")}
    fields = identity_fields(replace(spec, seed=0, method={}), names)
    return canonical(
        {
            part: {
                key: value for key, value in fields[part].items() if f"{part}.{key}" not in swept
            }
            for part in ("backbone", "dataset", "protocol")
        }
    )


def _may_be_of(told: Mapping[str, Any], spec: TrialSpec) -> bool:
    """Whether a row's checkpoint and data files may be those of `spec`."""
    if not told:
        return True  # nothing is known of them
    if told["backbone"].get("package") != spec.backbone.get("package"):
        return False
    pairs = [
        (told["backbone"].get("model"), spec.backbone.get("model")),
        (told["backbone"].get("data_path"), spec.backbone.get("data_path")),
        (told["dataset"].get("answers"), spec.dataset.get("answers")),
        *zip_longest(_files(told["dataset"]), _files(spec.dataset)),
    ]
    return all(_may_be_one(theirs, own) for theirs, own in pairs)


def _files(dataset: Mapping[str, Any]) -> list[str]:
    paths = dataset.get("path") or []
    return [paths] if isinstance(paths, str) else list(paths)


def _may_be_one(theirs: str | None, own: str | None) -> bool:
    if theirs == own or theirs is None or own is None:
        return theirs == own
    before, now = Path(theirs), Path(own)
    is_moved = before.is_absolute() and now.is_absolute() and not before.exists()
    return is_moved and before.name == now.name


def unsettled(
    specs: Sequence[TrialSpec], found: Sequence[EndRow | None], settled: Collection[str]
) -> tuple[TrialSpec, ...]:
    """Specifications without an end row, or with one that does not count as settled."""
    pairs = zip(specs, found, strict=True)
    return tuple(spec for spec, end in pairs if end is None or end.fingerprint not in settled)


def is_of(end: EndRow, ablation: str) -> bool:
    """True for a row that a sweep of this ablation has written."""
    return end.ablation == ablation


class Settled:
    """Trials that one driver need not run, because this or another driver of the store ended them.

    Trials that had ended when the driver started may run again, if `Options` say so. Those that end
    while it runs never do.
    """

    def __init__(self, history: History, others: Others, options: Options, metric: str) -> None:
        """Nothing is read.

        Args:
            history: What the store held at the start.
            others: Reads the rows that other drivers have written since.
            options: Which of the trials that had ended then run again.
            metric: What the sweep compares at a rung, such as `average.token`.
        """
        self._metric = metric
        self._others = others
        self._history = history  # the other drivers' rows when last read
        self._rows_before = {key: end.row_id for key, end in history.ends.items()}
        self._mine: set[str] = set()
        self._before: frozenset[str] = frozenset()
        if not options.fresh:
            self._before = frozenset(
                history.settled(
                    retry_failed=options.retry_failed, complete_stopped=options.complete_stopped
                )
            )

    def ended_before(self, key: str) -> bool:
        """Whether a trial had ended at the start and does not run again."""
        return key in self._before

    def ended_here(self, key: str) -> bool:
        """True for a trial that this driver has ended."""
        return key in self._mine

    def add(self, key: str) -> None:
        """This driver has ended a trial."""
        self._mine.add(key)

    def ended_elsewhere(self) -> set[str]:
        """Trials that other drivers have ended since the start.

        Raises:
            LedgerError: If what they wrote cannot be read.
        """
        self._history = self._others.read()
        return {
            key
            for key in self._history.settled()
            if self._rows_before.get(key) != self._history.ends[key].row_id
        }

    def end(self, key: str) -> EndRow:
        """The end row of a trial that another driver has ended."""
        return self._history.ends[key]

    def rungs(self, keys: Iterable[str]) -> list[Row]:
        """Rungs that trials of other drivers have reached, for a scheduler to compare with.

        Those of a sweep that compared by another metric are left out; rows of the first versions
        do not say by which.
        """
        return [
            {"trial_key": key, **row.values}
            for key in keys
            for row in self._history.checkpoints.get(key, [])
            if "compared" in row.values
            and row.values.get("compared_by", self._metric) == self._metric
        ]
