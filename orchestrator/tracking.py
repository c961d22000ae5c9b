"""Ledger -> MLflow, from the driver, never blocking a trial; can be rebuilt at any time.

Flat runs, one experiment per ablation; only swept parameters become params. A queue thread writes,
so that a slow or dead store costs no trial anything: what could not be written stays in the ledger.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.ledger import Ledger
from orchestrator.plan import Plan
from orchestrator.provenance import installed_packages
from orchestrator.redaction import redacted
from orchestrator.rows import labelled
from orchestrator.specs import TrialSpec
from orchestrator.status import ended, is_of

_LOG = logging.getLogger(__name__)
_DONE = object()
# Results of a row that are text or bookkeeping, not metrics.
_NOT_METRICS = frozenset({"rung", "progress", "edits_seen", "done", "compared", "trial_key"})


def tracking_uri(store: Path) -> str:
    """Address of the MLflow store of a sweep's folder."""
    return f"sqlite:///{(store / 'mlflow.db').resolve()}"


def chart_link(experiment_id: str, port: int = 5000) -> str:
    """The page of MLflow that shows the runs of an experiment as charts."""
    query = "workflowType=machine_learning&compareRunsMode=CHART"
    return f"http://127.0.0.1:{port}/#/experiments/{experiment_id}/runs?{query}"


class Tracker:
    """Writes settled trials of one ablation to MLflow in the background."""

    def __init__(self, store: Path, ablation: str, question: str = "") -> None:
        """Start a thread that opens the store, which takes seconds, and then writes into it.

        Only the driver does this, and no trial waits for it: a store that cannot be opened costs
        no result either.
        """
        self._store = store
        self._ablation = ablation
        self._question = question
        self._runs: dict[str, tuple[str, str]] = {}
        self.experiment_id = ""  # known after `close`; stays empty when the store cannot be opened
        self._is_packaged = False
        self.failures: list[str] = []
        self._queue: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def log(self, row: Mapping[str, Any]) -> None:
        """Queue one end row of the ledger; returns at once. A row that stands there is left."""
        self._queue.put(row)

    def close(self, timeout_seconds: float | None = 120.0) -> None:
        """Wait until everything queued is written; None: however long it takes."""
        self._queue.put(_DONE)
        self._thread.join(timeout_seconds)

    def _work(self) -> None:
        with _quiet():
            self._trying(self._open)
            while (row := self._queue.get()) is not _DONE:
                if self.experiment_id:
                    self._trying(self._write, row)

    def _trying(self, action: Callable[..., None], *what: Any) -> None:
        try:
            action(*what)
        except Exception as error:  # noqa: BLE001 - a dead store must not stop the sweep
            lines = redacted(str(error)).strip().splitlines()
            self.failures.append(lines[0] if lines else type(error).__name__)
            _LOG.warning("MLflow: %s", self.failures[-1])

    def _open(self) -> None:
        """Open or create the store and the experiment."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri(self._store))
        found = self._client.get_experiment_by_name(self._ablation)
        if found is None:
            experiment_id = self._client.create_experiment(
                self._ablation,
                artifact_location=(self._store / "mlartifacts" / self._ablation).resolve().as_uri(),
                tags={"mlflow.note.content": self._question} if self._question else {},
            )
        else:
            experiment_id = found.experiment_id
        self._runs = self._existing(experiment_id)
        self.experiment_id = experiment_id

    def _existing(self, experiment_id: str) -> dict[str, tuple[str, str]]:
        """Fingerprint -> (run id, ledger row) of the runs that stand there."""
        runs: dict[str, tuple[str, str]] = {}
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment_id], max_results=1000, page_token=token)
            for run in page:
                tags = run.data.tags
                runs[tags.get("fingerprint", "")] = (run.info.run_id, tags.get("ledger_row", ""))
            token = page.token
            if not token:
                return runs

    def _name_packages(self) -> None:
        """Once per set of packages, not once per run."""
        packages = installed_packages()
        digest = hashlib.sha256(packages.encode()).hexdigest()[:16]
        self._client.set_experiment_tag(self.experiment_id, f"packages.{digest}", packages)

    def _write(self, row: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param

        fingerprint = str(row["fingerprint"])
        if self._runs.get(fingerprint, ("", ""))[1] == str(row["row_id"]):
            return
        if not self._is_packaged:
            self._name_packages()
            self._is_packaged = True
        if fingerprint in self._runs:  # an older result of the same trial
            self._client.delete_run(self._runs[fingerprint][0])
        end = int(float(row["time"]) * 1000)
        tags = {name: _text(value) for name, value in row["tags"].items()}
        tags |= {"fingerprint": fingerprint, "ledger_row": str(row["row_id"])}
        if row.get("records"):
            tags["records"] = str(row["records"])
        run = self._client.create_run(
            self.experiment_id,
            start_time=end - int(1000 * float(row.get("seconds") or 0)),
            tags=tags,
            run_name=str(row["run_name"]),
        )
        metrics = [Metric(name, value, end, step) for step, name, value in _metrics(row)]
        params = [Param(name, _text(value)) for name, value in row["swept"].items()]
        self._client.log_batch(run.info.run_id, metrics=metrics, params=params, tags=[])
        # Its name alone: a row must not name a file elsewhere.
        records = self._store / "records" / Path(str(row.get("records") or "none")).name
        if records.is_file():
            self._client.log_artifact(run.info.run_id, str(records))
        status = "FINISHED" if row["status"] in ("finished", "stopped") else "FAILED"
        self._client.set_terminated(run.info.run_id, status, end_time=end)
        self._runs[fingerprint] = (run.info.run_id, str(row["row_id"]))


def sync_plan(plan: Plan) -> tuple[int, list[str]]:
    """Write every ended trial of a plan into its experiment.

    Returns:
        Number of trials, and why some could not be written.

    Raises:
        LedgerError: If the ledger cannot be read.
    """
    config = plan.config
    history = Ledger.read(config.store)
    pairs = list(zip(plan.trials, ended(plan.trials, history), strict=True))
    if plan.space:
        searched = [end for end in history.ends.values() if is_of(end, config.ablation)]
        pairs = [(TrialSpec.from_dict(end["spec"]), end) for end in searched]
    tracker = Tracker(Path(config.store).resolve(), config.ablation, config.question)
    rows = [labelled(end, spec, config) for spec, end in pairs if end is not None]
    for row in rows:
        tracker.log(row)
    tracker.close(timeout_seconds=None)
    return len(rows), tracker.failures


def _metrics(row: Mapping[str, Any]) -> Iterator[tuple[int, str, float]]:
    """(edits seen, name, value) of every checkpoint and of the end."""
    for checkpoint in row.get("checkpoints", []):
        for name, value in _numbers(checkpoint):
            yield int(checkpoint.get("edits_seen", 0)), name, value
    for name, value in _numbers(row["metrics"]):
        yield int(row["metrics"].get("edits_seen", 0)), name, value


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and name not in _NOT_METRICS:
            yield name, float(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the store's messages about creating its tables."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
