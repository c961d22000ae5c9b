"""Writes one ablation's runs to MLflow: each end row of the ledger becomes exactly one run.

MLflow is an SQLite file in the store, or a server that several machines reach. A server may fail at
any time: a request waits only seconds, and every write may be tried again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from filelock import FileLock

from orchestrator.store.ledger_rows import EndRow
from orchestrator.store.provenance import kept_packages
from orchestrator.store.rows import LabelledRow
from orchestrator.tracking.points import points
from orchestrator.tracking.stored import MARKS, READ, stored_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_LOG = logging.getLogger(__name__)
DATABASE = "mlflow.db"
LOOPBACK = "http://127.0.0.1:5000"
# MLflow's own 120 seconds and seven retries would hold a sweep's end up for a quarter of an hour.
# What it logs as an error it raises as well; its import would set the loggers' levels back.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a line for every run on a server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
_LONGEST_TAG = 5000  # of an experiment
_LOCK_SECONDS = 30.0  # another driver writes one row at a time
_WHOLE = ("FINISHED", "FAILED")  # a run gets its status last


def tracking_uri(store: Path, server: str | None = None) -> str:
    """The address of MLflow for a sweep: the server, or the database in the store."""
    if server:
        return server
    database = str((store / DATABASE).resolve())
    # Of an address SQLAlchemy unquotes the path; MLflow makes folders of it before that, and finds
    # none to make where the slashes are quoted as well.
    is_plain = "%" not in database and "?" not in database
    return f"sqlite:///{database if is_plain else quote(database, safe='')}"


def connect(store: Path, server: str | None = None) -> MlflowClient:
    """A client that gives up in seconds; a user's own variables of MLflow's win."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri(store, server))


class Mirror:
    """The experiment of one ablation; every call may raise whatever MLflow raises."""

    def __init__(self, store: Path, ablation: str, question: str, server: str | None) -> None:
        """Nothing is opened yet."""
        self._store = store
        self._ablation = ablation
        self._question = question
        self._server = server
        self.lock = FileLock(store / "mlflow.lock", timeout=_LOCK_SECONDS)
        self._notes = store / "mlflow" / f"{ablation}.json"
        self._written: dict[str, list[str]] = {}  # fingerprint -> marks of its one whole run
        # Place -> when an arm was typed last for it, in ms, and that one's fingerprint.
        self._newest: dict[str, tuple[int, str]] = {}
        self._known: list[int] | None = None  # state of the database that `_written` is true of
        self._packages: set[str] = set()  # digests whose list stands in the experiment
        self.experiment_id = ""  # until it is opened or recalled

    def recall(self) -> bool:
        """Whether the database is as a driver left it, so that its rows are known.

        This saves a driver with nothing to write the seconds that importing MLflow takes.
        """
        try:
            kept = json.loads(self._notes.read_text())
        except (OSError, ValueError):
            return False
        if not isinstance(kept, dict) or kept.get("database") != self._state():
            return False
        if "newest" not in kept:  # of an older version
            return False
        self.experiment_id, self._written = str(kept["experiment_id"]), dict(kept["written"])
        self._newest = {place: (when, arm) for place, (when, arm) in kept["newest"].items()}
        return True

    def remember(self) -> None:
        """Note the rows in the database, and its state, for the next driver's `recall`.

        The rows are read again, because somebody may have deleted some since they were written.
        """
        kept: dict[str, Any] = {"database": self._state(), "experiment_id": self.experiment_id}
        if kept["database"] is not None:
            kept["written"], kept["newest"] = self._read(self.experiment_id)
            self._notes.parent.mkdir(exist_ok=True)
            aside = self._notes.with_suffix(f".{os.getpid()}.tmp")
            aside.write_text(json.dumps(kept))
            aside.replace(self._notes)

    def has_row(self, row: LabelledRow) -> bool:
        """Whether a row has its run as the sweep labels it, by what was read on opening.

        Of an arm whose setting was another in between, the run is yet to be told again.
        """
        return self._written.get(row.end.fingerprint) == _marks(row) and self._is_newest(row)

    def open(self) -> None:
        """Open or create store and experiment, and read the rows there.

        An experiment that was deleted keeps its name: it is restored.
        """
        # Two drivers that begin together would both make MLflow's tables.
        with self.lock if self._server is None else nullcontext():
            self._client = connect(self._store, self._server)
            found = self._client.get_experiment_by_name(self._ablation)
            experiment_id = found.experiment_id if found else self._create()
        if found and found.lifecycle_stage == "deleted":
            self._restore(experiment_id)
        self._known = self._state()  # before reading: what others write meanwhile is looked up
        self._written, self._newest = self._read(experiment_id)
        self.experiment_id = experiment_id

    def write(self, row: LabelledRow) -> None:
        """Write the run of an end row, unless it, or that of a later row of the trial, is there.

        A run that is there gets the labels of this sweep, as its ablation may answer another table
        by now, unless they tell less of what is published. A run that was begun and not ended,
        because the driver or server was killed, is found by its fingerprint and written anew.
        """
        if self.has_row(row):
            return
        fingerprint = row.end.fingerprint
        with self.lock:  # other drivers of this store see the same rows
            # To search for a run takes longer the more there are, and finds none for a new trial.
            is_alone = self._known is not None and self._known == self._state()
            is_new = is_alone and fingerprint not in self._written
            self._name_packages(str(row.end.provenance.get("packages", "")))
            if not is_new and self._server is None:
                there = [
                    (found["status"] in _WHOLE, _marks_in(found))
                    for found in self._stored(self.experiment_id, fingerprint)
                ]
                if there == [(True, _marks(row))] and self._is_newest(row):
                    self._written[fingerprint] = _marks(row)  # another driver was faster
                    return
                is_new = not there
            standing = [] if is_new else self._runs_of(fingerprint)
            kept = next((run for run in standing if _is_kept(run, row.end)), None)
            for run in standing:
                if run is not kept:
                    self._client.delete_run(run.info.run_id)
            if kept is None:
                self._create_run(row)
            else:
                self._tell_again(kept, row)
            self._written[fingerprint] = _marks(row)
            place, arm = _setting(row)
            self._newest[place] = self._now(place), arm
            if is_alone:
                self._known = self._state()

    def _state(self) -> list[int] | None:
        """A value that changes with every write into the database; None for a server."""
        database = self._store / DATABASE
        if self._server or not database.is_file():
            return None
        status = database.stat()
        return [status.st_ino, status.st_size, status.st_mtime_ns]

    def _create(self) -> str:
        """Create the experiment; a server chooses itself where artifacts are."""
        folder = self._store / "mlartifacts" / self._ablation
        return str(
            self._client.create_experiment(
                self._ablation,
                artifact_location=None if self._server else folder.resolve().as_uri(),
                tags={"mlflow.note.content": self._question} if self._question else {},
            )
        )

    def _restore(self, experiment_id: str) -> None:
        """Restore the experiment with all its runs, except those that other runs replaced."""
        from mlflow.exceptions import MlflowException

        with self.lock:
            try:
                self._client.restore_experiment(experiment_id)
            except MlflowException:
                # Another driver was faster.
                if self._client.get_experiment(experiment_id).lifecycle_stage == "deleted":
                    raise
                return
            newest: set[str] = set()
            for run in sorted(self._runs(experiment_id), key=_age, reverse=True):
                fingerprint = run.data.tags.get("fingerprint", "")
                if fingerprint in newest:
                    self._client.delete_run(run.info.run_id)
                elif fingerprint:  # what others have put there is left
                    newest.add(fingerprint)
        _LOG.warning("MLflow: experiment %s had been deleted; it is restored", self._ablation)

    def _is_newest(self, row: LabelledRow) -> bool:
        """Whether no other setting was typed for a row's arm since."""
        place, arm = _setting(row)
        return not place or self._newest.get(place, (0, arm))[1] == arm

    def _now(self, place: str) -> int:
        """The time in ms, but later than all that is known of a place: clocks differ."""
        return max(int(1000 * time.time()), self._newest.get(place, (0, ""))[0] + 1)

    def _tell_again(self, run: Run, row: LabelledRow) -> None:
        """Give a run that is there the labels of this sweep, and note that it was typed again."""
        tags = _tags(row)
        is_relabelled = _marks_in(run.data.tags)[1:] != _marks(row)[1:]
        if is_relabelled and _says_less(row, run.data.tags):
            tags, is_relabelled = {}, False
        if not self._is_newest(row):
            tags["told"], is_relabelled = str(self._now(_setting(row)[0])), True
        if is_relabelled:
            self._label(run.info.run_id, tags)

    def _read(self, experiment_id: str) -> tuple[dict[str, list[str]], dict[str, tuple[int, str]]]:
        """The marks of each whole run by fingerprint, and of each place the arm typed last.

        A trial with several runs has no marks.
        """
        rows = self._served(experiment_id) if self._server else self._stored(experiment_id)
        written: dict[str, list[str]] = {}
        newest: dict[str, tuple[int, str]] = {}
        for found in rows:
            fingerprint = found["fingerprint"]
            is_only = fingerprint not in written and found["status"] in _WHOLE
            written[fingerprint] = _marks_in(found) if is_only else []
            when = max(int(found["start_time"] or 0), int(found["told"] or 0))
            told = when, found["arm_fingerprint"]
            newest[found["place"]] = max(newest.get(found["place"], told), told)
        return written, newest

    def _stored(self, experiment_id: str, fingerprint: str = "") -> Iterator[Mapping[str, str]]:
        """Status, start, setting and marks of each run in the store's database."""
        wait = _LOCK_SECONDS
        yield from stored_runs(self._store / DATABASE, experiment_id, fingerprint, wait)

    def _served(self, experiment_id: str) -> Iterator[Mapping[str, str]]:
        """Like `_stored`, for the runs of a server."""
        for run in self._runs(experiment_id):
            tags = {name: run.data.tags.get(name, "") for name in READ}
            yield {"status": run.info.status, "start_time": str(run.info.start_time)} | tags

    def _runs(self, experiment_id: str) -> Iterator[Run]:
        """All runs that are not deleted, by MLflow's client."""
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment_id], max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _runs_of(self, fingerprint: str) -> list[Run]:
        """All runs of a trial, whole or not."""
        query = f"tags.fingerprint = '{fingerprint}'"
        return list(self._client.search_runs([self.experiment_id], filter_string=query))

    def _name_packages(self, digest: str) -> None:
        """Write a set of packages once, not for every run; a run's tag `packages` is the digest."""
        if not digest or digest in self._packages:
            return
        for number, part in enumerate(_parts(kept_packages(self._store, digest)), start=1):
            name = f"packages.{digest}" if number == 1 else f"packages.{digest}.{number}"
            self._client.set_experiment_tag(self.experiment_id, name, part)
        self._packages.add(digest)

    def _label(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        told = [RunTag(name, value) for name, value in tags.items()]
        self._client.log_batch(run_id, tags=told)

    def _create_run(self, row: LabelledRow) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        end, ended_ms = row.end, _end_ms(row.end)
        tags = _tags(row) | {"fingerprint": end.fingerprint, "ledger_row": end.row_id}
        if end.records:
            tags["records"] = end.records
        run = self._client.create_run(
            self.experiment_id,
            start_time=ended_ms - int(1000 * (end.seconds or 0)),
            tags=tags,
            run_name=row.run_name,
        )
        metrics = [Metric(name, value, when, step) for when, step, name, value in points(end)]
        params = [Param(name, _text(value)) for name, value in row.swept.items()]
        self._client.log_batch(run.info.run_id, metrics=metrics, params=params, tags=[])
        # Its name alone: a row must not name a file elsewhere.
        records = self._store / "records" / Path(end.records or "none").name
        if records.is_file():
            # The client would read the whole run again, only to learn where its artifacts go.
            place, uri = run.info.artifact_uri, tracking_uri(self._store, self._server)
            get_artifact_repository(place, tracking_uri=uri).log_artifact(str(records))
        status = "FINISHED" if end.status in ("finished", "stopped") else "FAILED"
        self._client.set_terminated(run.info.run_id, status, end_time=ended_ms)


def is_refused(error: Exception) -> bool:
    """Whether MLflow has read the request and refused it, as it would do again."""
    return getattr(error, "error_code", "") in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def _is_kept(run: Run, end: EndRow) -> bool:
    """Whether a run is whole, and of this row or a later one of the same trial."""
    is_same = run.data.tags.get("ledger_row") == end.row_id
    return run.info.status in _WHOLE and (is_same or run.info.end_time > _end_ms(end))


def _tags(row: LabelledRow) -> dict[str, str]:
    return {name: _text(value) for name, value in row.tags.items()}


def _setting(row: LabelledRow) -> tuple[str, str]:
    """Where the row's arm stands in tables, and its fingerprint; two "" of an older row."""
    tags = _tags(row)
    return tags.get("place", ""), tags.get("arm_fingerprint", "")


def _marks(row: LabelledRow) -> list[str]:
    return _marks_in(_tags(row) | {"ledger_row": row.end.row_id})


def _marks_in(tags: Mapping[str, str]) -> list[str]:
    return [tags.get(name, "") for name in MARKS]


def _says_less(row: LabelledRow, tags: Mapping[str, str]) -> bool:
    """Whether a run of the same paper and arm stands for published values, and the row for none."""
    told = _tags(row)
    is_same = all(told.get(name, "") == tags.get(name, "") for name in ("paper", "arm"))
    return is_same and told.get("published") == "{}" != tags.get("published", "{}")


def _age(run: Run) -> tuple[bool, int]:
    """Sort key of one trial's runs: those without an end first, then by the time of their end."""
    return run.info.status in _WHOLE, run.info.end_time or 0


def _parts(text: str) -> Iterator[str]:
    """`text` in parts of whole lines that MLflow takes as a tag."""
    part = ""
    for line in text.splitlines(keepends=True):
        if part and len(part) + len(line) > _LONGEST_TAG:
            yield part
            part = ""
        part += line
    if part:
        yield part


def _end_ms(end: EndRow) -> int:
    return int(end.time * 1000)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
