"""Reads the runs of sweeps from MLflow, stores' own databases or a server, as rows of a frame.

Several stores are read as one: of a trial that stands in two of them, as in a store and its copy,
the newest run counts, but one that finished before any that did not.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
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
from analysis.reading.store_names import names_of

TAGS = (
    *("fingerprint", "arm_fingerprint", "ablation", "arm", "seed", "method", "module", "paper"),
    *("scale", "status", "stop_reason", "fidelity", "error", "protocol", "published", "swept"),
    *("backbone", "backbone_fingerprint", "dequantised_from", "num_layers", "hidden_size"),
    *("dataset", "dataset_digest", "dataset_part", "target_field"),
    *("device", "dtype", "micro_batch", "commit", "is_dirty", "source_hash"),
    *("method_config", "packages"),
)
_JSON_TAGS = ("protocol", "published", "swept")
_RECORDS = "records"  # folder of a store
# A server hands artifacts out itself; this is where.
_PROXIED, _PROXY = "mlflow-artifacts:", "/api/2.0/mlflow-artifacts/artifacts"


@dataclass(frozen=True)
class Lacking:
    """Trials that the ledger of a store has and MLflow lacks."""

    store: Path
    ablation: str
    count: int


def experiments(stores: Sequence[Path], server: str | None = None) -> tuple[str, ...]:
    """Names of the ablations that have runs in any of `stores`, in alphabetical order.

    Args:
        stores: Folders of sweeps' stores; the `mlflow.db` of each is read.
        server: Address of an MLflow server that is read instead.

    Raises:
        StoreError: If one of the stores holds no MLflow database, or the server does not answer.
    """
    sources = _sources(stores, server)
    return tuple(sorted({name for each in sources for name in each.experiments()} - {"Default"}))


def read_runs(stores: Sequence[Path], experiment: str, server: str | None = None) -> pd.DataFrame:
    """Rows of one ablation, one per trial.

    Args:
        stores: Folders of sweeps' stores; the `mlflow.db` of each is read.
        experiment: Name of the ablation.
        server: Address of an MLflow server that is read instead; `stores` may still hold the
            per-record results.

    Returns:
        Columns `run_id`, `started` (ms since 1970), `records` (where the per-record results would
        lie: the file in a store that the run's tag `records` names, else the artifact of that name,
        or "" without the tag), `store` (which of several the run is of, by its short name; "" where
        one is read), every name of `TAGS` as text ("" where a run lacks it; `seed` is an integer;
        JSON tags in canonical form), and `metrics`, a dict of the last value logged of each metric;
        the data set's published locality is called `locality`.

    Raises:
        StoreError: If one of the stores is none, or none has such an experiment; the message names
            what exists.
    """
    ids = [each.experiments().get(experiment) for each in _sources(stores, server)]
    if not any(ids):
        raise StoreError(_missing(stores, experiment, server))
    return _rows(stores, server, [[number] if number else [] for number in ids])


def read_table_runs(stores: Sequence[Path], paper: str, server: str | None = None) -> pd.DataFrame:
    """Rows, as `read_runs` returns them, of all trials that answer a published table.

    Args:
        stores: Folders of sweeps' stores.
        paper: Id of the published table, one of those that the runs' tag `paper` names.
        server: Address of an MLflow server that is read instead.

    Raises:
        StoreError: If one of the stores is none, or no run bears the tag; the message names what
            exists.
    """
    ids = [list(each.experiments().values()) for each in _sources(stores, server)]
    rows = _rows(stores, server, ids, paper)
    # What was asked for takes a name for the beginning of a longer one.
    rows = rows[rows["paper"].map(lambda tag: paper in papers_of(tag)).astype(bool)]
    if rows.empty:
        raise StoreError(_missing(stores, paper, server))
    return rows


def lacking(stores: Sequence[Path], server: str | None = None) -> tuple[Lacking, ...]:
    """How many trials of each ablation the stores' ledgers have and MLflow lacks, where any.

    They were not sent yet, or deleted in MLflow. A trial that several ablations share counts where
    it ran.

    Raises:
        StoreError: If a store has a ledger and no MLflow database, or the server does not answer.
    """
    return tuple(found for store in stores for found in _lacking(store, server))


def lacking_line(found: Lacking, server: str | None = None) -> str:
    """A line that says how to send the trials that MLflow lacks."""
    # The sweep's own grammar of values takes other signs between quotes only.
    store = str(found.store)
    quoted = store if re.fullmatch(r"[\w./+%-]+", store) else f'"{store}"'
    where = [f"store={quoted}", *([f"mlflow={server}"] if server else [])]
    again = shlex.join(
        ["python", "orchestrator/sweep.py", "--sync", f"ablation={found.ablation}", *where]
    )
    return (
        f"MLflow lacks {found.count} trials of {found.ablation} that the ledger has; to send them: "
        f"{again}, with the other keys of the sweep"
    )


def named(stores: Sequence[Path], server: str | None = None) -> str:
    """Where runs are read from, as it is typed."""
    return f"mlflow={server}" if server else f"store={','.join(map(str, stores))}"


def papers_of(tag: str) -> tuple[str, ...]:
    """The published tables that a run's tag `paper` names."""
    return tuple(name for name in tag.split(", ") if name)


def paper_of(table: str) -> str:
    """The paper of a published table or figure: `lemoe_table9` is of `lemoe`."""
    return table.partition("_table")[0].partition("_figure")[0]


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
        rows = [json.loads(line) for line in file]
    asked = [row for row in rows if row.get("when", when) == when]
    records = pd.DataFrame(asked or rows[:1])  # one row names the columns
    if not {"record_id", "score"} <= set(records.columns):
        return None
    records["score"] = records["score"].replace(published_locality(dataset), LOCALITY)
    subject = records["subject"] if "subject" in records else records["record_id"]
    records["subject"] = subject.where(~subject.isin(["", "None"]), records["record_id"])
    records["subject"] = records["subject"].fillna(records["record_id"])
    return records[records["when"] == when] if "when" in records else records


def path_of(address: str) -> Path | None:
    """The path that a value of the column `records` is; None of a file elsewhere."""
    parts = urlsplit(address)
    if parts.scheme not in ("", "file"):
        return None
    # A path is no address: `?`, `#` and `%20` are signs like any other in it.
    return Path(unquote(parts.path) if parts.scheme else address)


def _local(address: str) -> Path | None:
    """The artifact as a local file, found without MLflow: a thousand requests take minutes."""
    path = path_of(address)
    if path is None:
        return fetch(address)
    return path if path.is_file() else None


def _sources(stores: Sequence[Path], server: str | None) -> list[Database | Server]:
    """What holds the runs: the server alone, else the database of each store."""
    return [Database(store) for store in stores] if server is None else [Server(server)]


def _lacking(store: Path, server: str | None) -> list[Lacking]:
    ends = ledger_ends(store)
    if not ends:
        return []
    (source,) = _sources([store], server)
    known = source.experiments()
    there = source.rows([known[name] for name in ends if name in known])
    counts = {name: len(set(rows.items()) - there) for name, rows in sorted(ends.items())}
    return [Lacking(store, name, count) for name, count in counts.items() if count]


def _rows(
    stores: Sequence[Path],
    server: str | None,
    ids: Sequence[Sequence[str]],
    paper: str = "",
) -> pd.DataFrame:
    """Rows of the runs of some experiments, of each source its own ones, the newest first."""
    folders, names = [(store / _RECORDS).resolve() for store in stores], names_of(stores)
    rows: list[dict[str, Any]] = []
    for place, (source, own) in enumerate(zip(_sources(stores, server), ids, strict=True)):
        # What a server holds may be of any of the stores.
        held = [folders[place]] if server is None else folders
        name = names[place] if server is None and len(stores) > 1 else ""
        for run in source.runs(own, paper) if own else ():
            if run.tags.get("fingerprint"):  # others are summaries
                rows.append({"store": name} | _row(run, held, server))
    columns = ["run_id", "started", "records", "store", *TAGS, "metrics"]
    # Objects: what is read here is looked at one by one, for which Arrow's strings take longer.
    found = pd.DataFrame(rows, columns=columns, dtype=object)
    if len(stores) == 1 or server is not None:
        return found
    found = found.sort_values(["started", "run_id"], ascending=[False, True], kind="stable")
    best = found.sort_values("status", key=lambda each: each != "finished", kind="stable")
    kept = best.drop_duplicates(["ablation", "fingerprint"]).index
    return found[found.index.isin(kept)].reset_index(drop=True)


def _row(run: LoggedRun, folders: Sequence[Path], server: str | None) -> dict[str, Any]:
    tags, dataset = run.tags, run.tags.get("dataset", "")
    artifact = Path(tags.get("records", "")).name  # never a file elsewhere
    return {
        "run_id": run.run_id,
        # A trial that had ended, and whose sweep was typed again, is as new as that.
        "started": max(run.started, int(tags.get("told") or 0)),
        "records": _records(f"{run.artifact_uri}/{artifact}", folders, server) if artifact else "",
        **{name: tags.get(name, "") for name in TAGS},
        **{name: _canonical(run.run_id, name, tags.get(name)) for name in _JSON_TAGS},
        "seed": int(tags.get("seed", 0)),
        "metrics": {named_in_tables(name, dataset): value for name, value in run.metrics.items()},
    }


def _records(address: str, folders: Sequence[Path], server: str | None) -> str:
    """Address of a file of per-record results: a store's own copy, else MLflow's.

    MLflow's names the place that the store had when it was written; its own copy moves with it.
    """
    for folder in folders:
        own = folder / address.rpartition("/")[2]
        if own.is_file():
            return str(own)
    if server is None or not address.startswith(_PROXIED):
        return address
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


def _missing(stores: Sequence[Path], name: str, server: str | None) -> str:
    known = experiments(stores, server)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    missing = [lacking_line(each, server) for each in lacking(stores, server)]
    answered = " or ".join(f"ablation={each}" for each in ablations_for(name))
    runs_it = [f"the sweep that fills it: {answered}"] if answered else []
    has, hold = ("has", "it holds") if server or len(stores) == 1 else ("have", "they hold")
    holds = f"({hold}: {', '.join(known) or 'none'})"
    told = f"{named(stores, server)} {has} no runs for {name!r}{hint} {holds}"
    return "; ".join([told, *runs_it, *missing])
