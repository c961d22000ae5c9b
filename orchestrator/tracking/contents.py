"""Reads from MLflow what an experiment's view is made of: what was swept, what was measured."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import UsageError
from orchestrator.settings.yaml_files import SearchSpaces

if TYPE_CHECKING:
    from mlflow import MlflowClient

MADE_OF = "summary_of"  # tag of the run that holds the report: a hash of the rows that it shows
_DATABASE_SECONDS = 30.0
_MOST_RUNS = 1000  # of a server that are looked at for what was swept, the newest
_ACTIVE = "JOIN runs USING (run_uuid) WHERE experiment_id = ? AND lifecycle_stage = 'active'"
_TAGS = ("arm", "dataset", "fingerprint", "ledger_row", MADE_OF)


@dataclass(frozen=True)
class Contents:
    """What the runs of an experiment hold.

    Attributes:
        axes: The swept keys, each with its values.
        metrics: Names of all metrics.
        arms: Names of all arms.
        locality: The published one of most runs' data set, such as `locality_far`.
        rows: Fingerprint and ledger row of every trial.
        summary: Id of the run with the report; "" without one.
        made_of: What it was made of.
    """

    axes: Mapping[str, Sequence[str]]
    metrics: Sequence[str]
    arms: Sequence[str]
    locality: str
    rows: Sequence[tuple[str, str]]
    summary: str
    made_of: str


def read_contents(client: MlflowClient, database: Path | None, experiment_id: str) -> Contents:
    """What the runs of an experiment hold that were not deleted.

    Args:
        client: Of the server.
        database: MLflow's database where there is no server.
        experiment_id: The experiment's.

    Raises:
        MlflowException: If a server does not answer.
        sqlite3.Error: If the database cannot be read.
    """
    if database is None:
        return _served(client, experiment_id)
    # By SQL: MLflow's client makes an object of every metric and tag.
    address = f"{database.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, timeout=_DATABASE_SECONDS, uri=True)) as read:
        number = (int(experiment_id),)
        params = read.execute(f"SELECT DISTINCT key, value FROM params {_ACTIVE}", number)
        axes = _by_key(params)
        metrics = read.execute(f"SELECT DISTINCT key FROM latest_metrics {_ACTIVE}", number)
        names = sorted(name for (name,) in metrics)
        marks = ", ".join("?" * len(_TAGS))
        wanted = f"SELECT run_uuid, key, value FROM tags {_ACTIVE} AND key IN ({marks})"
        tags: dict[str, dict[str, str]] = defaultdict(dict)
        for run, key, value in read.execute(wanted, (*number, *_TAGS)):
            tags[run][key] = value
    return _contents(axes, names, tags)


def _served(client: MlflowClient, experiment_id: str) -> Contents:
    with_report = f"tags.{MADE_OF} LIKE '%'"
    runs = [
        *client.search_runs([experiment_id], filter_string=with_report),
        *client.search_runs([experiment_id], max_results=_MOST_RUNS),
    ]
    axes = _by_key(pair for run in runs for pair in run.data.params.items())
    metrics = sorted({name for run in runs for name in run.data.metrics})
    return _contents(axes, metrics, {run.info.run_id: run.data.tags for run in runs})


def _contents(
    axes: Mapping[str, Sequence[str]],
    metrics: Sequence[str],
    tags: Mapping[str, Mapping[str, str]],
) -> Contents:
    trials = [each for each in tags.values() if each.get("fingerprint")]
    summary = next((run for run, each in tags.items() if each.get(MADE_OF)), "")
    datasets = Counter(each.get("dataset", "") for each in trials).most_common(1)
    return Contents(
        axes=axes,
        metrics=metrics,
        arms=sorted({each["arm"] for each in trials if each.get("arm")}),
        locality=_locality(datasets[0][0] if datasets else ""),
        rows=sorted((each["fingerprint"], each.get("ledger_row", "")) for each in trials),
        summary=summary,
        made_of=tags[summary][MADE_OF] if summary else "",
    )


def _locality(dataset: str) -> str:
    """The locality that is published for a data set, as its file says."""
    try:
        kind = SearchSpaces().load("dataset", dataset).get("locality")
    except UsageError:  # the file is gone, or another user's
        kind = None
    return f"locality_{kind or 'far'}"


def _by_key(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    values: dict[str, set[str]] = defaultdict(set)
    for key, value in pairs:
        values[key].add(value)
    return {key: sorted(values[key]) for key in sorted(values)}
