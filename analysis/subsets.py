"""Divides an arm into subsets of its records, by batch or by frequency, each scored as an arm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pandas as pd

from analysis.aggregate import Arm, estimate
from analysis.intervals import SEEDS_FOR_T, Interval, intervals_over_subjects
from analysis.metrics import AVERAGED
from analysis.reading.runs import read_records

# Per-record results of one trial -> number of the subset of each line, NaN for none.
Division: TypeAlias = Callable[[pd.DataFrame], "pd.Series[float]"]


def subsets(arm: Arm, measure: str, divide: Division, name: str) -> tuple[Arm, ...]:
    """One arm for each subset, in the order of their numbers.

    They stand as `<name> 1`, `<name> 2`, ..., and their own names begin with that of `arm`.

    Its scores are means over the subset's records, then over seeds; those right after each batch
    are called `<score>.immediate`. With fewer than three seeds their intervals are over the
    subset's subjects. The tuple is empty for an arm without a mean, or whose per-record results
    are gone.

    Args:
        arm: The arm to divide; `arm.records` says where its per-record results are.
        measure: Column to average: token, exact, generated or token_no_blank.
        divide: Which subset a line belongs to.
        name: What one subset is called, such as `batch`.
    """
    if arm.state:
        return ()
    values: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    parts: dict[tuple[int, str], list[pd.DataFrame]] = defaultdict(list)
    for address in arm.records:
        trial = _by_record(address, arm.context["dataset"], measure, divide)
        if trial is None:
            return ()
        for (subset, moment), part in trial.items():
            parts[subset, moment].append(part)
            for score, value in _means(part, measure).items():
                values[subset][score + moment].append(value)
    resampled: dict[int, dict[str, Interval]] = defaultdict(dict)
    for (subset, moment), frames in parts.items() if len(arm.seeds) < SEEDS_FOR_T else ():
        found = intervals_over_subjects(frames, measure)
        resampled[subset] |= {f"{score}{moment}": pair for score, pair in found.items()}
    return tuple(
        replace(
            arm,
            name=f"{arm.name}, {name} {subset + 1}",
            swept={**arm.swept, "arm": f"{name} {subset + 1}"},
            scores={
                score: estimate(found, resampled[subset].get(score))
                for score, found in values[subset].items()
            },
        )
        for subset in sorted(values)
    )


def by_batch(size: int) -> Division:
    """Divides a stream into runs of `size` batches."""

    def divide(records: pd.DataFrame) -> pd.Series[float]:
        return _column(records, "batch") // size

    return divide


def by_frequency(num_subsets: int) -> Division:
    """Divides records into equal subsets by frequency in the backbone's training, highest first.

    Equal frequencies stay in the order of the file.
    """

    def divide(records: pd.DataFrame) -> pd.Series[float]:
        of_record = _column(records, "frequency").groupby(records["record_id"], sort=False).first()
        ranks = of_record.rank(method="first", ascending=False) - 1
        return records["record_id"].map(ranks * num_subsets // len(of_record))

    return divide


def _by_record(
    address: str, dataset: str, measure: str, divide: Division
) -> dict[tuple[int, str], pd.DataFrame] | None:
    """Mean of each record of one trial, by its subset and moment; None where nothing is divided.

    A moment is the end of the trial, "", or that right after the record's batch, ".immediate".
    """
    parts: dict[tuple[int, str], pd.DataFrame] = {}
    for when, moment in (("final", ""), ("immediate", ".immediate")):
        records = read_records(address, dataset, when)
        if records is None or measure not in records:
            return None
        subset = divide(records)
        known = records.assign(subset=subset)[subset.notna() & records[measure].notna()]
        keys = ["subset", "score", "record_id", "subject"]
        each = known.groupby(keys, dropna=False)[measure].mean()
        parts |= {
            (int(number), moment): part for number, part in each.reset_index().groupby("subset")
        }
    return parts or None


def _means(part: pd.DataFrame, measure: str) -> dict[str, float]:
    """Mean over records of each score, `average` included where it is defined."""
    means = {
        str(score): float(value) for score, value in part.groupby("score")[measure].mean().items()
    }
    if all(score in means for score in AVERAGED):
        means["average"] = sum(means[score] for score in AVERAGED) / len(AVERAGED)
    return means


def _column(records: pd.DataFrame, name: str) -> pd.Series[float]:
    if name in records:
        return pd.to_numeric(records[name], errors="coerce")
    return pd.Series(float("nan"), index=records.index)
