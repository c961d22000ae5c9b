"""The MLflow database of a store, read with a handful of SQL queries.

MLflow's own client makes an object of every tag and every metric: many times slower over 10,000
runs, and a second to import. It also creates or migrates what it opens; printing a table must not.
The tables read here (`experiments`, `runs`, `tags`, `latest_metrics`) are MLflow's; a test compares
what is read with what its client says.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from analysis.errors import StoreError
from analysis.reading.logged import LoggedRun

DATABASE = "mlflow.db"
_PATIENCE = 30.0  # seconds to wait for a sweep that writes


class Database:
    """The runs in `mlflow.db` of a store, which need not be writable.

    Args:
        store: Folder of the sweep's store.

    Raises:
        StoreError: By every method, if `store` holds no database, or one that is not MLflow's.
    """

    def __init__(self, store: Path) -> None:
        self._store = store

    def experiments(self) -> dict[str, str]:
        """Name -> id of all experiments that were not deleted."""
        query = "SELECT name, experiment_id FROM experiments WHERE lifecycle_stage = 'active'"
        with self._open() as database:
            return {name: str(number) for name, number in database.execute(query)}

    def rows(self, experiment_ids: Sequence[str]) -> set[tuple[str, str]]:
        """Fingerprint and ledger row of all runs of some experiments that were not deleted."""
        query = (
            "SELECT trial.value, COALESCE(row.value, '') FROM runs "
            "JOIN tags AS trial ON trial.run_uuid = runs.run_uuid AND trial.key = 'fingerprint' "
            "LEFT JOIN tags AS row ON row.run_uuid = runs.run_uuid AND row.key = 'ledger_row' "
            f"WHERE experiment_id IN ({','.join('?' * len(experiment_ids))}) "
            "AND lifecycle_stage = 'active'"
        )
        with self._open() as database:
            return set(database.execute(query, [int(number) for number in experiment_ids]))

    def runs(self, experiment_ids: Sequence[str], paper: str = "") -> list[LoggedRun]:
        """All runs of some experiments that were not deleted, the newest first.

        Args:
            experiment_ids: Values of `experiments`.
            paper: Only runs whose tag `paper` holds this text; "" for all.
        """
        numbers = [int(number) for number in experiment_ids]
        chosen = f"experiment_id IN ({','.join('?' * len(numbers))}) AND lifecycle_stage = 'active'"
        values: list[int | str] = [*numbers]
        if paper:
            of_paper = "SELECT run_uuid FROM tags WHERE key = 'paper' AND instr(value, ?) > 0"
            chosen += f" AND run_uuid IN ({of_paper})"
            values.append(paper)
        of_chosen = f"run_uuid IN (SELECT run_uuid FROM runs WHERE {chosen})"
        with self._open() as database:
            # One transaction: what a sweep writes between two of the queries is not seen by one.
            database.execute("BEGIN")
            found = {
                run_id: LoggedRun(run_id, started, artifact_uri, {}, {})
                for run_id, started, artifact_uri in database.execute(
                    f"SELECT run_uuid, start_time, artifact_uri FROM runs WHERE {chosen} "
                    "ORDER BY start_time DESC, run_uuid",
                    values,
                )
            }
            tags_of = {run_id: run.tags for run_id, run in found.items()}
            metrics_of = {run_id: run.metrics for run_id, run in found.items()}
            tags = f"SELECT run_uuid, key, value FROM tags WHERE {of_chosen}"
            for run_id, name, text in database.execute(tags, values):
                tags_of[run_id][name] = text
            last = f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE {of_chosen}"
            for run_id, name, value, is_nan in database.execute(last, values):
                metrics_of[run_id][name] = float("nan") if is_nan else value
        return list(found.values())

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        path = self._store / DATABASE
        if not path.is_file():
            state = f"has no {DATABASE} ({self._state()})"
            raise StoreError(f"store={self._store} {state}; run a sweep with this store")
        # Writable if it can be: SQLite then takes back what a driver that was killed had begun.
        address = f"{path.resolve().as_uri()}?mode=rw"
        try:
            with closing(sqlite3.connect(address, timeout=_PATIENCE, uri=True)) as database:
                yield database
        except sqlite3.Error as error:
            reason = f"{DATABASE} cannot be read as MLflow's database: {error}"
            raise StoreError(f"store={self._store}: {reason}") from None

    def _state(self) -> str:
        if not self._store.is_dir():
            return "no such folder"
        there = sorted(path.name for path in self._store.iterdir())[:8]
        return f"it holds {', '.join(there) or 'nothing'}"
