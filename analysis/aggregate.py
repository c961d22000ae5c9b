"""Makes arms of rows of trials: a mean and interval per score, or how many trials did not end.

An arm has a mean only when all its seeds ended; otherwise its state says why not. Only trials of
one `Section`, which share backbone, data and protocol, are averaged.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from analysis.errors import StoreError
from analysis.intervals import SEEDS_FOR_T, Interval, interval_over_seeds, intervals_over_subjects
from analysis.metrics import AVERAGED, metric

CONTEXT = (
    *("backbone", "backbone_fingerprint"),
    *("dataset", "dataset_digest", "dataset_part", "target_field"),
)
# Protocol or context keys that may differ between the arms of one table -> what differs with them.
_WITH = {
    "backbone": ("backbone", "backbone_fingerprint"),
    "dataset": ("dataset", "dataset_digest", "dataset_part", "target_field"),
}
PROVENANCE = (
    *("scale", "device", "dtype", "micro_batch", "commit", "is_dirty", "source_hash"),
    *("dequantised_from", "store"),
    "packages",  # digest of all versions installed: scikit-learn's clusters, NLTK's stems, sums
)

_COUNT = "count."  # how the names of metrics begin that count fall-backs

Trial: TypeAlias = Mapping[str, Any]  # one row of `runs.read_runs`
RecordReader: TypeAlias = Callable[[str, str], pd.DataFrame | None]  # of address, data set


@dataclass(frozen=True)
class Estimate:
    """Mean of one score over seeds, a fraction, with its 95% interval where there is one.

    `by_seed` holds one value per seed, in the order of the arm's seeds; `mean` is their mean.
    """

    mean: float
    num_seeds: int
    low: float | None = None
    high: float | None = None
    source: Literal["t", "bootstrap", "fisher_z", "bounds", "none"] = "none"
    by_seed: tuple[float, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Arm:
    """One setting of a method, and the results of its seeds.

    Attributes:
        swept: Values of the swept keys.
        published: For each swept key, the published values that this arm stands for.
        state: "" when all seeds ended, otherwise why not, such as `failed 1/3`; then `scores` is
            empty.
        scores: Final scores in the table's measure, `average` included; `<score>.immediate` is a
            score right after each batch. Metrics that do not score questions are here by name.
        before: The same scores before the first edit, and what else was measured then.
        errors: Reasons of failed trials, one line each.
        context: Backbone and data set of the arm, by the names in `CONTEXT`.
        records: Where the per-record results of each seed lie, as `runs.read_records` takes it.
        counts: Counts that each seed reported, by their names without `count.`.
        settings: Those of its method that are not swept, by their names, as far as they are told.
    """

    name: str
    method: str
    ablation: str
    swept: Mapping[str, Any]
    published: Mapping[str, list[Any]]
    protocol: Mapping[str, Any]
    seeds: tuple[int, ...]
    num_layers: int | None
    hidden_size: int | None
    state: str
    scores: Mapping[str, Estimate]
    before: Mapping[str, Estimate]
    errors: tuple[str, ...]
    context: Mapping[str, str] = field(default_factory=dict)
    records: tuple[str, ...] = ()
    counts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def of_seed(self, score: str, seed: int) -> float:
        """One of its scores in one of its seeds."""
        return self.scores[score].by_seed[self.seeds.index(seed)]


@dataclass(frozen=True)
class Section:
    """Arms that may stand in one table: same backbone, data and, but for `varying`, protocol.

    Attributes:
        context: Backbone and data set, by the names in `CONTEXT`; several where they may differ.
        protocol: The protocol keys that all arms share.
        provenance: Every value that occurs, by the names in `PROVENANCE`.
        num_superseded: Trials left out because newer ones of the same arm and seed exist.
        measure: How answers were scored; one of `metrics.MEASURES`.
    """

    context: Mapping[str, str]
    protocol: Mapping[str, Any]
    arms: tuple[Arm, ...]
    provenance: Mapping[str, tuple[str, ...]]
    num_superseded: int
    measure: str = "token"


def sections(
    rows: pd.DataFrame,
    measure: str = "token",
    varying: Sequence[str] = (),
    records: RecordReader | None = None,
) -> tuple[Section, ...]:
    """Arms of all trials, divided by backbone, data and protocol; the newest section first.

    Args:
        rows: Rows of `runs.read_runs`.
        measure: One of `metrics.MEASURES`.
        varying: Protocol keys that may differ between the arms of one section; `backbone` and
            `dataset` too.
        records: `runs.read_records`, for the bootstrap of arms with fewer than
            three seeds; None: such arms have no interval.
    """
    # A trial that several ablations share has a run in each, with its place there.
    rows = _fill_context(_latest(rows, ["ablation", "fingerprint"]))
    # Thousands of rows bear one of a few protocols: each is read once.
    protocols = {text: json.loads(text) for text in rows["protocol"].unique()}
    shared = {text: _dump(p, lambda key: key not in varying) for text, p in protocols.items()}
    own = {text: _dump(p, lambda key: key in varying) for text, p in protocols.items()}
    rows["shared"], rows["own"] = rows["protocol"].map(shared), rows["protocol"].map(own)
    differing = [name for key in varying for name in _WITH.get(key, ())]
    for name in differing:
        rows["own"] += " " + rows[name]
    context = [name for name in CONTEXT if name not in differing]
    groups = [group for _, group in rows.groupby([*context, "shared"], sort=False)]
    groups.sort(key=lambda group: -int(group["started"].max()))
    return tuple(_section(group, measure, records) for group in groups)


def estimate(values: Sequence[float], resampled: Interval | None = None) -> Estimate:
    """The mean over seeds; its interval is over seeds if there are enough, else `resampled`."""
    mean, count, by_seed = math.fsum(values) / len(values), len(values), tuple(values)
    if (over_seeds := interval_over_seeds(values)) is not None:
        return Estimate(mean, count, *over_seeds, "t", by_seed)
    if resampled is not None:
        return Estimate(mean, count, *resampled, "bootstrap", by_seed)
    return Estimate(mean, count, by_seed=by_seed)


def with_intervals(arm: Arm, measure: str, records: RecordReader | None) -> dict[str, Estimate]:
    """The scores of `arm`; with fewer than three seeds, their intervals are over subjects."""
    if records is None or not arm.scores or len(arm.seeds) >= SEEDS_FOR_T:
        return dict(arm.scores)
    resampled = _resampled(arm.records, arm.context["dataset"], measure, records)
    return {
        name: estimate(found.by_seed, resampled.get(name)) for name, found in arm.scores.items()
    }


def _section(part: pd.DataFrame, measure: str, records: RecordReader | None) -> Section:
    # One arm under two fingerprints: the setting that is not swept was changed in between. The
    # newest counts, with all its seeds, also those that are older than another setting's.
    identity = ["ablation", "arm", "own"]
    ordered = part.sort_values("started", kind="stable")
    newest = ordered.groupby(identity)["arm_fingerprint"].transform("last")
    trials = _latest(ordered[ordered["arm_fingerprint"] == newest], [*identity, "seed"])
    values = _values_of(trials)
    final, before = (_scores(values, measure, when) for when in ("final", "before"))
    final = pd.concat([final, _numbers(values, measure)], axis=1)
    before = pd.concat([before, _numbers_before(values)], axis=1)
    counts = values[[name for name in values.columns if name.startswith(_COUNT)]]
    tables = _Tables(*(_Columns.of(table) for table in (final, before, counts)))
    # Thousands of arms: a frame for each would take longer than all else.
    groups: dict[Any, list[tuple[int, Trial]]] = {}
    for place, trial in enumerate(trials.drop(columns="metrics").to_dict("records")):
        groups.setdefault(tuple(trial[key] for key in identity), []).append((place, trial))
    arms = tuple(_arm(group, tables, records, measure) for group in groups.values())
    return Section(
        context={name: ", ".join(_values(trials, name)) for name in CONTEXT},
        protocol=json.loads(trials["shared"].iloc[0]),
        arms=arms,
        provenance={name: _values(trials, name) for name in PROVENANCE},
        num_superseded=part["run_id"].nunique() - len(trials),
        measure=measure,
    )


@dataclass(frozen=True)
class _Columns:
    """The columns of a table by name, each with a value for every trial of a section."""

    by_name: Mapping[str, np.ndarray[Any, Any]]

    @classmethod
    def of(cls, table: pd.DataFrame) -> _Columns:
        return cls({str(name): table[name].to_numpy(float) for name in table.columns})

    def at(self, places: Sequence[int]) -> dict[str, list[float]]:
        """The values of some trials."""
        return {name: column[places].tolist() for name, column in self.by_name.items()}


@dataclass(frozen=True)
class _Tables:
    final: _Columns
    before: _Columns
    counts: _Columns


def _arm(
    group: list[tuple[int, Trial]], tables: _Tables, records: RecordReader | None, measure: str
) -> Arm:
    group = sorted(group, key=lambda each: int(each[1]["seed"]))
    places, trials = [place for place, _ in group], [trial for _, trial in group]
    first = trials[0]
    state, swept = _state(trials), json.loads(first["swept"])
    before = {name: _known(found) for name, found in tables.before.at(places).items()}
    counts = {name: _known(found) for name, found in tables.counts.at(places).items()}
    return Arm(
        name=str(first["arm"]),
        method=str(first["method"]),
        ablation=str(first["ablation"]),
        swept=swept,
        published=json.loads(first["published"]),
        protocol=json.loads(first["protocol"]),
        seeds=tuple(int(trial["seed"]) for trial in trials),
        num_layers=_whole(trials, "num_layers"),
        hidden_size=_whole(trials, "hidden_size"),
        state=state,
        scores={} if state else _estimates(tables.final.at(places), trials, measure, records),
        before={name: estimate(found) for name, found in before.items() if found},
        errors=tuple(str(trial["error"]) for trial in trials if trial["error"]),
        context={name: str(first[name]) for name in CONTEXT},
        records=tuple(str(trial["records"]) for trial in trials),
        counts={name.removeprefix(_COUNT): tuple(found) for name, found in counts.items() if found},
        settings=_settings(first, swept),
    )


def _settings(trial: Trial, swept: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trial's method that are not swept."""
    text = trial["method_config"] or "{}"
    try:
        settings: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError:
        what = f"tag method_config is {text!r}, which is not JSON"
        raise StoreError(f"run {trial['run_id']}: {what}") from None
    for key in swept:
        settings.pop(key.removeprefix("method."), None)
    return settings


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _estimates(
    final: Mapping[str, list[float]],
    trials: Sequence[Trial],
    measure: str,
    records: RecordReader | None,
) -> dict[str, Estimate]:
    resampled: dict[str, Interval] = {}
    if records is not None and len(trials) < SEEDS_FOR_T:
        addresses = [trial["records"] for trial in trials]
        resampled = _resampled(addresses, trials[0]["dataset"], measure, records)
    return {
        name: estimate(values, resampled.get(name))
        for name, values in final.items()
        if not any(map(math.isnan, values))  # measured in every seed
    }


def _resampled(
    addresses: Iterable[str], dataset: str, measure: str, records: RecordReader
) -> dict[str, Interval]:
    """Intervals over the subjects of all seeds of one arm; none if a seed's results are gone."""
    found = [records(address, dataset) for address in addresses]
    present = [frame for frame in found if frame is not None]
    if len(present) < len(found):
        return {}
    return intervals_over_subjects(present, measure)


def _values_of(trials: pd.DataFrame) -> pd.DataFrame:
    """What was logged, (trials, metrics) in alphabetical order; NaN where a trial lacks it."""
    names = sorted({name for metrics in trials["metrics"] for name in metrics})
    columns = {name: place for place, name in enumerate(names)}
    values = np.full((len(trials), len(names)), np.nan)
    for row, metrics in zip(values, trials["metrics"], strict=True):
        row[[columns[name] for name in metrics]] = list(metrics.values())
    return pd.DataFrame(values, index=trials["run_id"], columns=names)


def _scores(table: pd.DataFrame, measure: str, when: str) -> pd.DataFrame:
    """Scores of each run at one moment, (runs, scores), with `average` where it is defined."""
    suffix = f".{measure}.{when}"
    names = [name for name in table.columns if str(name).endswith(suffix)]
    found = table[names].rename(columns=lambda name: str(name).removesuffix(suffix))
    if set(AVERAGED) <= set(found.columns):
        found["average"] = found[list(AVERAGED)].mean(axis=1, skipna=False)
    return found


def _numbers(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Further numbers of each run that a table may show, (runs, names)."""
    names = {name: _number_name(str(name), measure) for name in table.columns}
    return table[[name for name, shown in names.items() if shown]].rename(columns=names)


def _numbers_before(table: pd.DataFrame) -> pd.DataFrame:
    """Further numbers of each run before its first edit, (runs, names)."""
    logged = [str(name) for name in table.columns if str(name).endswith(".before")]
    names = {name: name.removesuffix(".before") for name in logged}
    declared = {name: metric(short) for name, short in names.items()}
    kept = [name for name, found in declared.items() if found and found.per == "checkpoint"]
    return table[kept].rename(columns=names)


def _number_name(logged: str, measure: str) -> str:
    """An arm's name for the metric that MLflow calls `logged`; "" if an arm does not keep it."""
    at_once = f".{measure}.immediate"
    if logged.endswith(at_once):
        return f"{logged.removesuffix(at_once)}.immediate"
    name, _, when = logged.rpartition(".")
    at_checkpoint = metric(name)
    if at_checkpoint is not None and at_checkpoint.per == "checkpoint":
        return {"final": name, "immediate": logged}.get(when, "")
    declared = metric(logged)
    is_number = declared is not None and declared.per == "trial"
    return logged if is_number and not logged.startswith(_COUNT) else ""


def _state(trials: Sequence[Trial]) -> str:
    """Why the arm has no mean: `failed 1/3`, `diverged`, `pruned 2/3`; "" when all seeds ended."""
    counts = Counter(_outcome(trial["status"], trial["stop_reason"]) for trial in trials)
    ended = counts.pop("finished", 0)
    if set(counts) == {"diverged"} and not ended:
        return "diverged"
    return ", ".join(f"{name} {count}/{len(trials)}" for name, count in sorted(counts.items()))


def _outcome(status: str, stop_reason: str) -> str:
    if status == "stopped":
        return {"timeout": "timed out"}.get(stop_reason, "pruned")
    return status if status in ("finished", "failed", "diverged") else "unfinished"


def _latest(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Rows of the latest run for each value of `keys`."""
    latest = rows.sort_values(["started", "run_id"]).drop_duplicates(keys, keep="last")
    return rows[rows["run_id"].isin(latest["run_id"])].copy()


def _fill_context(rows: pd.DataFrame) -> pd.DataFrame:
    """Fills in the digests of trials that failed early, so that they join their own section."""
    rows = rows.sort_values("started", kind="stable")
    for digest, owner in (("backbone_fingerprint", "backbone"), ("dataset_digest", "dataset")):
        known = rows[rows[digest] != ""].groupby(owner)[digest].last()
        guess = rows[owner].map(known).fillna("")
        rows[digest] = rows[digest].where(rows[digest] != "", guess)
    return rows


def _dump(protocol: Mapping[str, Any], keep: Callable[[str], bool]) -> str:
    return json.dumps({k: v for k, v in protocol.items() if keep(k)}, sort_keys=True)


def _values(rows: pd.DataFrame, name: str) -> tuple[str, ...]:
    return tuple(sorted({str(value) for value in rows[name] if value != ""}))


def _whole(trials: Sequence[Trial], name: str) -> int | None:
    known = [int(trial[name]) for trial in trials if trial[name] != ""]
    return known[0] if known else None
