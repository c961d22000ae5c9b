"""Makes arms of tidy rows: a mean and interval per score, or how many trials did not end.

An arm has a mean only when all its seeds ended; otherwise its state says why not. Only trials of
one `Section`, which share backbone, data and protocol, are averaged.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

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
    "dequantised_from",
    "packages",  # digest of all versions installed: scikit-learn's clusters, NLTK's stems, sums
)

_COUNT = "count."  # how the names of metrics begin that count fall-backs
CONFIDENCE = 0.95
_SEEDS_FOR_T = 3  # fewer seeds: bootstrap over subjects (house rule)
_RESAMPLES = 2000
_BOOTSTRAP_SEED = 0  # an interval must not change from one printing to the next

RecordReader: TypeAlias = Callable[[str, str], pd.DataFrame | None]  # of address, data set
Interval: TypeAlias = tuple[float, float]


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
        rows: Tidy rows of `runs.read_runs`.
        measure: One of `metrics.MEASURES`.
        varying: Protocol keys that may differ between the arms of one section; `backbone` and
            `dataset` too.
        records: `runs.read_records`, for the bootstrap of arms with fewer than
            three seeds; None: such arms have no interval.
    """
    rows = _fill_context(_latest(rows, ["fingerprint"]))
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
    mean, over_seeds = math.fsum(values) / len(values), interval_over_seeds(values)
    made = Estimate(mean, len(values), by_seed=tuple(values))
    if over_seeds is not None:
        return replace(made, low=over_seeds[0], high=over_seeds[1], source="t")
    if resampled is not None:
        return replace(made, low=resampled[0], high=resampled[1], source="bootstrap")
    return made


def with_intervals(arm: Arm, measure: str, records: RecordReader | None) -> dict[str, Estimate]:
    """The scores of `arm`; with fewer than three seeds, their intervals are over subjects."""
    if records is None or not arm.scores or len(arm.seeds) >= _SEEDS_FOR_T:
        return dict(arm.scores)
    resampled = _resampled(arm.records, arm.context["dataset"], measure, records)
    return {
        name: estimate(found.by_seed, resampled.get(name)) for name, found in arm.scores.items()
    }


def interval_over_seeds(values: Sequence[float]) -> Interval | None:
    """Student's t interval (95%) of the mean of `values`, or None for fewer than three."""
    if len(values) < _SEEDS_FOR_T:
        return None
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    error = statistics.stdev(values) / math.sqrt(len(values))
    half = stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * error
    mean = math.fsum(values) / len(values)
    return mean - float(half), mean + float(half)


def intervals_over_subjects(records: pd.DataFrame, measure: str) -> dict[str, Interval]:
    """Percentile bootstrap (95%) over subjects, by score, `average` included.

    All questions about one subject are drawn together; the statistic is the mean over questions.
    A score has no interval when fewer than two subjects have questions of its kind.

    Args:
        records: Per-record results of all seeds of one arm, as `runs.read_records` returns them.
        measure: Column to average: token, token_no_blank or exact; another measure has no interval.
    """
    if measure not in records or records[measure].isna().all():
        return {}
    grouped = records.groupby(["subject", "score"])[measure]
    sums, counts = grouped.sum().unstack(fill_value=0.0), grouped.count().unstack(fill_value=0)
    if len(sums) < 2:
        return {}
    generator = np.random.default_rng(_BOOTSTRAP_SEED)
    drawn = generator.integers(0, len(sums), (_RESAMPLES, len(sums)))
    means: dict[str, np.ndarray[Any, Any]] = {}
    for score in sums.columns:
        if (counts[score] > 0).sum() < 2:
            continue
        total = counts[score].to_numpy()[drawn].sum(1)
        drawn_sums = sums[score].to_numpy()[drawn].sum(1)
        # A resample may hold no question of a rare kind: it has no mean and is left out below.
        means[str(score)] = np.divide(
            drawn_sums, total, out=np.full(_RESAMPLES, np.nan), where=total > 0
        )
    if set(AVERAGED) <= set(means):
        means["average"] = np.mean([means[name] for name in AVERAGED], axis=0)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    return {name: _pair(np.nanquantile(values, tails)) for name, values in means.items()}


def _section(part: pd.DataFrame, measure: str, records: RecordReader | None) -> Section:
    # One arm and seed under two fingerprints: the setting that is not swept was changed in between.
    identity = ["ablation", "arm", "own"]
    kept = _latest(part, [*identity, "seed"])
    newest = kept.sort_values("started").groupby(identity)["arm_fingerprint"].transform("last")
    kept = kept[kept["arm_fingerprint"] == newest]
    trials = kept.drop_duplicates("run_id")
    values = kept.pivot(index="run_id", columns="metric", values="value")
    final, before = (_scores(values, measure, when) for when in ("final", "before"))
    final = pd.concat([final, _numbers(values, measure)], axis=1)
    before = pd.concat([before, _numbers_before(values)], axis=1)
    groups = trials.groupby(identity, sort=False)
    counts = values[[name for name in values.columns if str(name).startswith(_COUNT)]]
    arms = tuple(
        replace(_arm(group, final, before, records, measure), counts=_counts(group, counts))
        for _, group in groups
    )
    return Section(
        context={name: ", ".join(_values(trials, name)) for name in CONTEXT},
        protocol=json.loads(trials["shared"].iloc[0]),
        arms=arms,
        provenance={name: _values(trials, name) for name in PROVENANCE},
        num_superseded=part["run_id"].nunique() - len(trials),
        measure=measure,
    )


def _arm(
    trials: pd.DataFrame,
    final: pd.DataFrame,
    before: pd.DataFrame,
    records: RecordReader | None,
    measure: str,
) -> Arm:
    trials = trials.sort_values("seed", kind="stable")
    first = trials.iloc[0]
    state = _state(trials)
    own = final.loc[trials["run_id"]]
    return Arm(
        name=str(first["arm"]),
        method=str(first["method"]),
        ablation=str(first["ablation"]),
        swept=json.loads(first["swept"]),
        published=json.loads(first["published"]),
        protocol=json.loads(first["protocol"]),
        seeds=tuple(sorted(int(seed) for seed in trials["seed"])),
        num_layers=_whole(trials["num_layers"]),
        hidden_size=_whole(trials["hidden_size"]),
        state=state,
        scores={} if state else _estimates(own, trials, measure, records),
        before=_before(before.loc[trials["run_id"]]),
        errors=tuple(str(error) for error in trials["error"] if error),
        context={name: str(first[name]) for name in CONTEXT},
        records=tuple(str(address) for address in trials["records"]),
    )


def _counts(trials: pd.DataFrame, counts: pd.DataFrame) -> dict[str, tuple[float, ...]]:
    own = counts.loc[trials["run_id"]]
    found = {str(name).removeprefix(_COUNT): own[name].dropna() for name in own.columns}
    return {name: tuple(map(float, values)) for name, values in found.items() if len(values)}


def _before(own: pd.DataFrame) -> dict[str, Estimate]:
    """What the seeds that got so far measured before the first edit."""
    found = {str(name): list(map(float, own[name].dropna())) for name in own.columns}
    return {name: estimate(values) for name, values in found.items() if values}


def _estimates(
    final: pd.DataFrame, trials: pd.DataFrame, measure: str, records: RecordReader | None
) -> dict[str, Estimate]:
    resampled: dict[str, Interval] = {}
    if records is not None and len(trials) < _SEEDS_FOR_T:
        resampled = _resampled(trials["records"], trials["dataset"].iloc[0], measure, records)
    estimates = {}
    for name in final.columns:
        values = [float(value) for value in final[name]]
        if any(math.isnan(value) for value in values):
            continue  # not measured in every seed
        estimates[str(name)] = estimate(values, resampled.get(str(name)))
    return estimates


def _resampled(
    addresses: Iterable[str], dataset: str, measure: str, records: RecordReader
) -> dict[str, Interval]:
    """Intervals over the subjects of all seeds of one arm; none if a seed's results are gone."""
    found = [records(address, dataset) for address in addresses]
    present = [frame for frame in found if frame is not None]
    if len(present) < len(found):
        return {}
    return intervals_over_subjects(pd.concat(present), measure)


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


def _state(trials: pd.DataFrame) -> str:
    """Why the arm has no mean: `failed 1/3`, `diverged`, `pruned 2/3`; "" when all seeds ended."""
    counts = Counter(map(_outcome, trials["status"], trials["stop_reason"]))
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
    runs = rows.sort_values(["started", "run_id"]).drop_duplicates(keys, keep="last")
    return rows[rows["run_id"].isin(runs["run_id"])].copy()


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


def _whole(column: pd.Series) -> int | None:
    known = [int(value) for value in column if value != ""]
    return known[0] if known else None


def _pair(bounds: np.ndarray[Any, Any]) -> Interval:
    low, high = bounds
    return float(low), float(high)
