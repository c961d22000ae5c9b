"""The command: `python orchestrator/ui.py [store=results] [port=5000]` opens MLflow on a store.

With `mlflow=ADDRESS` it prints the pages of that server, which runs already.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Python puts this file's folder in front; the packages are found from the repository's root.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import os
from collections.abc import Sequence

from orchestrator.redaction import redacted
from orchestrator.settings.addresses import MOST_PORT, mlflow_server
from orchestrator.terminal.waiting import Waiting
from orchestrator.tracking.mirror import connect, tracking_uri
from orchestrator.tracking.place import Store
from orchestrator.tracking.summary import page_link, try_to_summarise

USAGE_ERROR = 2
ALLOWED = ("store", "port", "mlflow")


def main(arguments: Sequence[str]) -> int:
    """Print the page of every experiment, then become the MLflow server where none is given."""
    typed = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = sorted(set(typed) - set(ALLOWED))
    if unknown:
        return _refuse(f"{unknown[0]}: unknown; allowed: store=FOLDER port=NUMBER mlflow=ADDRESS")
    port = typed.get("port", "5000")
    is_number = port.isascii() and port.isdecimal() and len(port) <= len(str(MOST_PORT))
    if not is_number or not 1 <= int(port) <= MOST_PORT:
        return _refuse(f"port={port}: must be a number from 1 to {MOST_PORT}")
    store = Path(typed.get("store", "results"))
    if "mlflow" in typed:
        return _show_server(store, typed["mlflow"])
    if not (store / "mlflow.db").is_file():
        return _refuse(f"store={store} holds no mlflow.db; run a sweep first")
    # Without this MLflow starts seven more processes for a feature that is not used here.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    _print_pages(store, None, f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", port, "--backend-store-uri", tracking_uri(store)]
    os.execv(sys.executable, command)


def _show_server(store: Path, typed: str) -> int:
    """Print the pages of a server; its status."""
    from mlflow.exceptions import MlflowException

    try:
        server = mlflow_server(typed)
        _print_pages(store, server, server)
    except (ValueError, MlflowException) as error:
        return _refuse(f"mlflow={typed}: {str(error).splitlines()[0]}")
    return 0


def _print_pages(store: Path, server: str | None, shown_at: str) -> None:
    where = Store(store, server)
    experiments = connect(store, server).search_experiments()  # an error is the user's to see
    with Waiting("writing report and charts into MLflow"):
        reason = try_to_summarise(where)
    if reason:
        print(f"report and charts are as they were: {reason}", file=sys.stderr)
    for experiment in experiments:
        if experiment.name != "Default":
            page = page_link(where, experiment.experiment_id, shown_at)
            print(f"{experiment.name}: {page}", flush=True)


def _refuse(why: str) -> int:
    print(f"error: {redacted(why)}", file=sys.stderr)
    return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
