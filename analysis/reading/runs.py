"""Reads the runs of a sweep from MLflow, a store's own database or a server, as rows of a frame."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pandas as pd

from analysis.errors import StoreError
from analysis.reading.database import Database
from analysis.reading.ledger_ends import ledger_ends
from analysis.reading.logged import LoggedRun
from analysis.reading.published_locality import (
    LOCALITY,
    named_in_tables,
    published_locality,
)
from analysis.reading.server import Server, fetch
from analysis.reading.shipped import ablations_for

TAGS = (
    *("fingerprint", "arm_fingerprint", "ablation", "arm", "seed", "method", "module", "paper"),
    *("scale", "status", "stop_reason", "fidelity", "error", "protocol", "published", "swept"),
    *("backbone", "backbone_fingerprint", "dequantised_from", "num_layers", "hidden_size"),
    *("dataset", "dataset_digest", "dataset_part", "target_field"),
    *("device", "dtype", "micro_batch", "commit", "is_dirty", "source_hash"),
    "packages",
)
_JSON_TAGS = ("protocol", "published", "swept")
# A server hands artifacts out itself; this is where.
_PROXIED, _PROXY = "mlflow-artifacts:", "/api/2.0/mlflow-artifacts/artifacts"


def experiments(store: Path, server: str | None = None) -> tuple[str, ...]:
    """Names of the ablations that have runs in `store`, in alphabetical order.

    Args:
        store: Folder of the sweep's store; its `mlflow.db` is read.
        server: Address of an MLflow server that is read instead.

    Raises:
        StoreError: If there is no MLflow database in `store`, or the server does not answer.
    """
    return tuple(sorted(name for name in _source(store, server).experiments() if name != "Default"))


def read_runs(store: Path, experiment: str, server: str | None = None) -> pd.DataFrame:
    """Rows of one ablation, one per trial.

    Args:
        store: Folder of the sweep's store; its `mlflow.db` is read.
        experiment: Name of the ablation.
        server: Address of an MLflow server that is read instead; `store` may still hold the
            per-record results.

    Returns:
        Columns `run_id`, `started` (ms since 1970), `records` (where the per-record results would
        lie: the artifact named by the run's tag `records`, or "" without one), every name of
        `TAGS` as text ("" where a run lacks it; `seed` is an integer; JSON tags in canonical
        form), and `metrics`, a dict of the last value logged of each metric; the data set's
        published locality is called `locality`.

    Raises:
        StoreError: If there is no store or no such experiment; the message names what exists.
    """
    source = _source(store, server)
    experiment_id = source.experiments().get(experiment)
    if experiment_id is None:
        raise StoreError(_missing(store, experiment, server))
    return _rows(source.runs([experiment_id]), store, server)


def read_table_runs(store: Path, paper: str, server: str | None = None) -> pd.DataFrame:
    """Rows, as `read_runs` returns them, of all trials that answer a published table.

    Args:
        store: Folder of the sweep's store.
        paper: Id of the published table, one of those that the runs' tag `paper` names.
        server: Address of an MLflow server that is read instead.

    Raises:
        StoreError: If there is no store, or no run bears the tag; the message names what exists.
    """
    source = _source(store, server)
    rows = _rows(source.runs(list(source.experiments().values()), paper), store, server)
    # What was asked for takes a name for the beginning of a longer one.
    rows = rows[rows["paper"].map(lambda tag: paper in papers_of(tag)).astype(bool)]
    if rows.empty:
        raise StoreError(_missing(store, paper, server))
    return rows


def lacking(store: Path, server: str | None = None) -> dict[str, int]:
    """Number of trials per ablation that the store's ledger has and MLflow lacks, if any.

    They were not sent yet, or deleted in MLflow. A trial that several ablations share counts where
    it ran.

    Raises:
        StoreError: If there is no MLflow database in `store`, or the server does not answer.
    """
    ends = ledger_ends(store)
    if not ends:
        return {}
    source = _source(store, server)
    known = source.experiments()
    there = source.rows([known[name] for name in ends if name in known])
    counts = {name: len(set(rows.items()) - there) for name, rows in ends.items()}
    return {name: count for name, count in sorted(counts.items()) if count}


def lacking_line(ablation: str, count: int, store: Path, server: str | None = None) -> str:
    """A line that says how to send the trials that MLflow lacks."""
    # The sweep's own grammar of values takes other signs between quotes only.
    quoted = store if re.fullmatch(r"[\w./+%-]+", str(store)) else f'"{store}"'
    where = [f"store={quoted}", *([f"mlflow={server}"] if server else [])]
    again = shlex.join(
        ["python", "orchestrator/sweep.py", "--sync", f"ablation={ablation}", *where]
    )
    return (
        f"MLflow lacks {count} trials of {ablation} that the ledger has; to send them: {again}, "
        "with the other keys of the sweep"
    )


def papers_of(tag: str) -> tuple[str, ...]:
    """The published tables that a run's tag `paper` names."""
    return tuple(name for name in tag.split(", ") if name)


def read_records(address: str, dataset: str, when: str = "final") -> pd.DataFrame | None:
    """Per-record results of one trial at one moment, or None where there is no such file.

    The file is JSON lines, one per record and prompt. A record without a subject counts as a
    subject of its own.

    Args:
        address: Value of the column `records` of `read_runs`, a path or URI.
        dataset: The trial's; its published locality is called `locality`.
        when: `final`, or `immediate` for what was scored right after each record's own batch.

    Returns:
        Columns `subject`, `score` (reliability, generality, locality, ...) and the measures
        that the file has (`token`, `exact`, ...), fractions, beside whatever else stands
        in it. Rows of other moments are left out where the file tells the moment.
    """
    path = _local(address)
    if path is None:
        return None
    with path.open() as file:  # pandas' own reader of JSON lines takes four times as long
        records = pd.DataFrame([json.loads(line) for line in file])
    if not {"record_id", "score"} <= set(records.columns):
        return None
    records["score"] = records["score"].replace(published_locality(dataset), LOCALITY)
    subject = records["subject"] if "subject" in records else records["record_id"]
    records["subject"] = subject.where(~subject.isin(["", "None"]), records["record_id"])
    records["subject"] = records["subject"].fillna(records["record_id"])
    return records[records["when"] == when] if "when" in records else records


def _local(address: str) -> Path | None:
    """The artifact as a local file, found without MLflow: a thousand requests take minutes."""
    parts = urlsplit(address)
    if parts.scheme not in ("", "file"):
        return fetch(address)
    # A path is no address: `?`, `#` and `%20` are signs like any other in it.
    path = Path(unquote(parts.path) if parts.scheme else address)
    return path if path.is_file() else None


def _source(store: Path, server: str | None) -> Database | Server:
    return Database(store) if server is None else Server(server)


def _rows(runs: Iterable[LoggedRun], store: Path, server: str | None) -> pd.DataFrame:
    trials = [run for run in runs if run.tags.get("fingerprint")]  # others are summaries
    columns = ["run_id", "started", "records", *TAGS, "metrics"]
    # Objects: what is read here is looked at one by one, for which Arrow's strings take longer.
    return pd.DataFrame([_row(run, store, server) for run in trials], columns=columns, dtype=object)


def _row(run: LoggedRun, store: Path, server: str | None) -> dict[str, Any]:
    tags, dataset = run.tags, run.tags.get("dataset", "")
    artifact = Path(tags.get("records", "")).name  # never a file elsewhere
    return {
        "run_id": run.run_id,
        "started": run.started,
        "records": _records(f"{run.artifact_uri}/{artifact}", store, server) if artifact else "",
        **{name: tags.get(name, "") for name in TAGS},
        **{name: _canonical(run.run_id, name, tags.get(name)) for name in _JSON_TAGS},
        "seed": int(tags.get("seed", 0)),
        "metrics": {named_in_tables(name, dataset): value for name, value in run.metrics.items()},
    }


def _records(address: str, store: Path, server: str | None) -> str:
    """Address of a file of per-record results: the sweep's own copy, else the server's."""
    if server is None or not address.startswith(_PROXIED):
        return address
    own = store / "records" / address.rpartition("/")[2]
    if own.is_file():
        return str(own.resolve())
    return f"{server.rstrip('/')}{_PROXY}/{address.removeprefix(_PROXIED).lstrip('/')}"


def _canonical(run_id: str, tag: str, text: str | None) -> str:
    try:
        return _sorted(text or "{}")
    except json.JSONDecodeError:
        raise StoreError(f"run {run_id}: tag {tag} is {text!r}, which is not JSON") from None


@cache  # thousands of trials share a few protocols, published values and swept ones
def _sorted(text: str) -> str:
    """The same JSON with its keys in alphabetical order."""
    return json.dumps(json.loads(text), sort_keys=True)


def _missing(store: Path, name: str, server: str | None) -> str:
    known = experiments(store, server)
    where = f"mlflow={server}" if server else f"store={store}"
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    missing = [lacking_line(*each, store, server) for each in lacking(store, server).items()]
    answered = " or ".join(f"ablation={each}" for each in ablations_for(name))
    runs_it = [f"the sweep that fills it: {answered}"] if answered else []
    holds = f"(it holds: {', '.join(known) or 'none'})"
    return "; ".join([f"{where} has no runs for {name!r}{hint} {holds}", *runs_it, *missing])
