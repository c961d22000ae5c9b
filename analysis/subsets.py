"""Divides an arm into subsets of its records, by batch or by frequency, each scored as an arm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pandas as pd

from analysis.aggregate import Arm, estimate
from analysis.metrics import AVERAGED
from analysis.reading.runs import read_records

# Per-record results of one trial -> number of the subset of each line, NaN for none.
Division: TypeAlias = Callable[[pd.DataFrame], "pd.Series[float]"]


def subsets(arm: Arm, measure: str, divide: Division, name: str) -> tuple[Arm, ...]:
    """One arm for each subset, named `<name> 1`, `<name> 2`, ..., in the order of their numbers.

    Its scores are means over the subset's records, then over seeds; those right after each batch
    are called `<score>.immediate`. The tuple is empty for an arm without a mean, or whose
    per-record results are gone.

    Args:
        arm: The arm to divide; `arm.records` says where its per-record results are.
        measure: Column to average: token, exact, generated or token_no_blank.
        divide: Which subset a line belongs to.
        name: What one subset is called, such as `batch`.
    """
    if arm.state:
        return ()
    values: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for address in arm.records:
        means = _means(address, arm.context["dataset"], measure, divide)
        if means is None:
            return ()
        for (subset, score), value in means.items():
            values[subset][score].append(value)
    return tuple(
        replace(
            arm,
            name=f"{name} {subset + 1}",
            swept={**arm.swept, "arm": f"{name} {subset + 1}"},
            scores={score: estimate(found) for score, found in values[subset].items()},
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


def _means(
    address: str, dataset: str, measure: str, divide: Division
) -> dict[tuple[int, str], float] | None:
    """Mean of each subset and score of one trial; None where there is nothing to divide."""
    means: dict[tuple[int, str], float] = {}
    for when, suffix in (("final", ""), ("immediate", ".immediate")):
        records = read_records(address, dataset, when)
        if records is None or measure not in records:
            return None
        subset = divide(records)
        known = records.assign(subset=subset)[subset.notna() & records[measure].notna()]
        of_record = known.groupby(["subset", "score", "record_id"])[measure].mean()
        for (number, score), value in of_record.groupby(["subset", "score"]).mean().items():
            means[int(number), f"{score}{suffix}"] = float(value)
    for number in {subset for subset, _ in means}:
        if all((number, score) in means for score in AVERAGED):
            means[number, "average"] = sum(means[number, s] for s in AVERAGED) / len(AVERAGED)
    return means or None


def _column(records: pd.DataFrame, name: str) -> pd.Series[float]:
    if name in records:
        return pd.to_numeric(records[name], errors="coerce")
    return pd.Series(float("nan"), index=records.index)
