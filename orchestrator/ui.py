"""The command: `python orchestrator/ui.py [store=results] [port=5000]` opens MLflow on a store."""

from __future__ import annotations

import sys
from pathlib import Path

# Python puts this file's folder in front; the packages are found from the repository's root.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import os
from collections.abc import Sequence

from orchestrator.tracking import chart_link, tracking_uri

USAGE_ERROR = 2
ALLOWED = ("store", "port")


def main(arguments: Sequence[str]) -> int:
    """Print the page of every experiment, then become the MLflow server."""
    typed = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = sorted(set(typed) - set(ALLOWED))
    if unknown or not typed.get("port", "5000").isdigit():
        wrong = f"{unknown[0]}: unknown" if unknown else f"port={typed['port']}: not a number"
        print(f"error: {wrong}; allowed: store=FOLDER port=NUMBER", file=sys.stderr)
        return USAGE_ERROR
    store, port = Path(typed.get("store", "results")), int(typed.get("port", "5000"))
    if not (store / "mlflow.db").is_file():
        print(f"error: store={store} holds no mlflow.db; run a sweep first", file=sys.stderr)
        return USAGE_ERROR
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    # Without this MLflow starts seven more processes for a feature that is not used here.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    from mlflow import MlflowClient

    for experiment in MlflowClient(tracking_uri(store)).search_experiments():
        if experiment.name != "Default":
            print(f"{experiment.name}: {chart_link(experiment.experiment_id, port)}", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", tracking_uri(store)]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
