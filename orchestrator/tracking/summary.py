"""Writes into MLflow what an experiment's page opens on, and one run that holds the report.

Both are made of what MLflow holds and may be written again at any time. The run `summary` has no
fingerprint, by which everything that reads trials knows that it is none.
"""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote
from urllib.request import urlopen

from orchestrator.errors import UsageError
from orchestrator.redaction import redacted
from orchestrator.store.provenance import ROOT
from orchestrator.tracking import description, view
from orchestrator.tracking.contents import MADE_OF, Contents, read_contents
from orchestrator.tracking.mirror import DATABASE, LOOPBACK, Mirror, connect
from orchestrator.tracking.place import Store
from orchestrator.tracking.tracker import quiet

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

_UNFINISHED = "unfinished"
_NOTE = "mlflow.note.content"
_SERVER_SECONDS = 5.0


def page_link(store: Store, experiment_id: str, address: str = LOOPBACK) -> str:
    """The page of an experiment; of its view where there is one that this MLflow reads."""
    query = "workflowType=machine_learning&compareRunsMode=CHART"
    if has_view(store, experiment_id):
        query += f"&viewStateShareKey={view.KEY}"
    return f"{address}/#/experiments/{experiment_id}/runs?{query}"


def has_view(store: Store, experiment_id: str) -> bool:
    """Whether an experiment has a view that this MLflow reads; False too if nobody answers."""
    if not is_tested(store.server):
        return False
    if store.server:
        client, found = connect(store.folder, store.server), list[bool]()
        _tried(lambda: found.append(view.TAG in client.get_experiment(experiment_id).tags))
        return found == [True]
    # Importing MLflow takes seconds.
    address = f"{(store.folder / DATABASE).resolve().as_uri()}?mode=ro"
    query = "SELECT 1 FROM experiment_tags WHERE experiment_id = ? AND key = ?"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            told = database.execute(query, (int(experiment_id), view.TAG)).fetchone()
    except sqlite3.Error:
        return False
    return told is not None


def try_to_show(store: Store, ablation: str, tables: Sequence[str]) -> str:
    """Like `show`; why it could not be done, in one line, else ""."""
    return _tried(lambda: show(store, ablation, tables))


def try_to_summarise(store: Store) -> str:
    """Like `summarise`; why it could not be done, in one line, else ""."""
    return _tried(lambda: summarise(store))


def show(store: Store, ablation: str, tables: Sequence[str]) -> None:
    """Write an experiment's view, and its question with tables as its description.

    Args:
        store: Where the experiment is; nothing happens if it is not there.
        ablation: Its name.
        tables: As `analysis/table.py` prints them, in Markdown.

    Raises:
        MlflowException: If MLflow refuses or does not answer.
        OSError: If another driver does not end what it writes.
        sqlite3.Error: If the store's database cannot be read.
    """
    client = connect(store.folder, store.server)
    found = client.get_experiment_by_name(ablation)
    if found is not None:
        with _written_alone(store, [ablation]):
            _show(client, store, found, tables)


def summarise(store: Store) -> list[str]:
    """Write view, description and the run `summary` of all experiments that lack the newest ones.

    Returns:
        Their names.

    Raises:
        MlflowException: If MLflow refuses or does not answer.
        UsageError: If there is no report.
    """
    client = connect(store.folder, store.server)
    found = [each for each in client.search_experiments() if each.name != "Default"]
    held = {each.name: _held(client, store, each) for each in found}
    rows = sorted(row for each in held.values() for row in each.rows)
    made_of = hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
    old = [each for each in found if held[each.name].rows and held[each.name].made_of != made_of]
    if not old:
        return []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.html"
        _write_report(store, report)
        with _written_alone(store, [each.name for each in found]):
            for each in old:
                own = report.parent / "parts" / quote(each.name, safe="")
                texts = [path.read_text("utf-8") for path in sorted(own.glob("*.md"))]
                files, run = [report, *sorted(own.glob("*"))], held[each.name].summary
                _write_run(client, each.experiment_id, run, made_of, files)
                _show(client, store, each, texts)
    return [each.name for each in old]


def _tried(write: Callable[[], object]) -> str:
    from mlflow.exceptions import MlflowException

    try:
        with quiet():
            write()
    except (MlflowException, UsageError, OSError, sqlite3.Error) as error:
        return redacted(str(error)).strip().partition("\n")[0] or type(error).__name__
    return ""


def _write_report(store: Store, report: Path) -> None:
    """Write the report, with its tables and figures as files beside it.

    Raises:
        UsageError: If there is none; the message is that of the command.
    """
    # analysis is another program: it reads MLflow and knows nothing of sweeps
    command = [sys.executable, str(ROOT / "analysis" / "report.py"), *store.words]
    command += [f"out={report}", f"parts={report.parent / 'parts'}"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise UsageError(made.stderr.strip().rpartition("\n")[2])


def _held(client: MlflowClient, store: Store, experiment: Experiment) -> Contents:
    database = None if store.server else store.folder / DATABASE
    return read_contents(client, database, experiment.experiment_id)


@contextmanager
def _written_alone(store: Store, ablations: Sequence[str]) -> Iterator[None]:
    """Nothing else of this store writes into MLflow during the block.

    What drivers noted of the database holds afterwards as it did before: no trial is written here.
    """
    mirrors = [Mirror(store.folder, each, "", store.server) for each in ablations]
    noted = [each for each in mirrors if each.recall()]
    with mirrors[0].lock if store.folder.is_dir() else nullcontext():
        yield
    for each in noted:
        each.remember()


def _show(
    client: MlflowClient, store: Store, experiment: Experiment, tables: Sequence[str]
) -> None:
    held = _held(client, store, experiment)
    number = experiment.experiment_id
    if is_tested(store.server):
        measure = description.measure_of(tables) or "token"
        seen = view.Seen(held.axes, held.metrics, held.arms, held.locality, measure)
        client.set_experiment_tag(number, view.TAG, view.tag_of(seen))
    if tables:
        run = f"#/experiments/{number}/runs/{held.summary}/artifacts" if held.summary else ""
        note = description.note_of(experiment.tags.get(_NOTE, ""), tables, run)
        client.set_experiment_tag(number, _NOTE, note)


def _write_run(
    client: MlflowClient, experiment_id: str, run_id: str, made_of: str, files: Sequence[Path]
) -> None:
    """Write the run with the report, the one that is there if one is."""
    if not run_id:
        made = client.create_run(experiment_id, run_name=view.SUMMARY, tags={MADE_OF: _UNFINISHED})
        run_id = made.info.run_id
    for path in files:
        client.log_artifact(run_id, str(path))
    client.set_terminated(run_id, "FINISHED")
    client.set_tag(run_id, MADE_OF, made_of)  # last: all of it is there


def is_tested(server: str | None) -> bool:
    """Whether this MLflow, or that of the server, is the one whose views are known."""
    if server is None:
        return version("mlflow") == view.TESTED
    try:
        with urlopen(f"{server}/version", timeout=_SERVER_SECONDS) as answer:
            return bool(answer.read().decode().strip() == view.TESTED)
    except (OSError, ValueError):
        return False
