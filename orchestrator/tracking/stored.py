"""What the runs of a store's own database are found by, read by SQL.

MLflow's client makes an object of every metric and tag, which takes most of a minute for 10,000
runs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

# What a run is found by, and labels that an ablation may give anew to a trial that has ended.
MARKS = ("ledger_row", "paper", "arm", "labels")
# Of the settings that were typed for one arm, one after another, that which was typed last counts.
READ = ("fingerprint", "place", "arm_fingerprint", "told", *MARKS)
_COLUMNS = ", ".join(f"COALESCE({name}.value, '')" for name in READ)
_JOINS = " ".join(
    f"LEFT JOIN tags AS {name} ON {name}.run_uuid = runs.run_uuid AND {name}.key = '{name}'"
    for name in READ
)
_RUNS = (
    f"SELECT runs.status, runs.start_time, {_COLUMNS} FROM runs {_JOINS} "
    "WHERE runs.experiment_id = ? AND runs.lifecycle_stage = 'active'"
)


def stored_runs(
    database: Path, experiment_id: str, fingerprint: str, wait_seconds: float
) -> Iterator[Mapping[str, str]]:
    """Of each run that is not deleted its `status`, its `start_time` and the tags of `READ`.

    Args:
        database: MLflow's, which is only read.
        experiment_id: Of the experiment.
        fingerprint: Of the one trial whose runs are wanted; "": of all.
        wait_seconds: Longest wait for another process that writes.
    """
    address = f"{database.resolve().as_uri()}?mode=ro"
    query, values = _RUNS, [int(experiment_id), *([fingerprint] if fingerprint else [])]
    if fingerprint:
        query += " AND fingerprint.value = ?"
    with closing(sqlite3.connect(address, timeout=wait_seconds, uri=True)) as opened:
        for found in opened.execute(query, values).fetchall():
            yield dict(zip(("status", "start_time", *READ), found, strict=True))
