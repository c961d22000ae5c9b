"""The runs on an MLflow server, read with its client; the only importer of mlflow in `analysis`.

MLflow takes over a second to import, so the methods import it themselves: `--help` needs none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from analysis.errors import StoreError
from analysis.reading.logged import LoggedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PAGE = 10_000  # runs per request, of which MLflow allows five times as many
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}


class Server:
    """The runs that an MLflow server holds.

    Args:
        address: http://host:port or https://host.

    Raises:
        StoreError: If the address has another form or names a user. Every method raises it if the
            server does not answer.
    """

    def __init__(self, address: str) -> None:
        if "@" in urlsplit(address).netloc or urlsplit(address).scheme not in ("http", "https"):
            raise StoreError("mlflow=... must be http://host:port or https://host, without a user")
        self._address = address

    def experiments(self) -> dict[str, str]:
        """Name -> id of all experiments that were not deleted."""
        with self._client() as client:
            return {found.name: found.experiment_id for found in client.search_experiments()}

    def rows(self, experiment_ids: Sequence[str]) -> set[tuple[str, str]]:
        """Fingerprint and ledger row of all runs of some experiments that were not deleted."""
        tags = [run.tags for run in self.runs(experiment_ids)]
        return {(each.get("fingerprint", ""), each.get("ledger_row", "")) for each in tags}

    def runs(self, experiment_ids: Sequence[str], paper: str = "") -> list[LoggedRun]:
        """All runs of some experiments that were not deleted, the newest first.

        Args:
            experiment_ids: Values of `experiments`.
            paper: Only runs whose tag `paper` holds this text; "" for all.
        """
        query = f"tags.paper LIKE '%{paper}%'" if paper else ""
        found: list[LoggedRun] = []
        token: str | None = None
        with self._client() as client:
            while experiment_ids:  # MLflow refuses none
                page = client.search_runs(
                    list(experiment_ids), filter_string=query, max_results=_PAGE, page_token=token
                )
                found += [
                    LoggedRun(
                        run.info.run_id,
                        run.info.start_time,
                        run.info.artifact_uri,
                        run.data.tags,
                        run.data.metrics,
                    )
                    for run in page
                ]
                token = page.token
                if not token:
                    break
        return found

    @contextmanager
    def _client(self) -> Iterator[MlflowClient]:
        """An MLflow client with short time limits; its errors are raised as one line."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            yield MlflowClient(tracking_uri=self._address)
        except MlflowException as error:
            reason = str(error).splitlines()[0]
            raise StoreError(f"mlflow={self._address}: {reason}") from None


def fetch(uri: str) -> Path | None:
    """An artifact as a local file; None if it was moved, deleted or never written."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        return Path(download_artifacts(artifact_uri=uri))
    except (MlflowException, OSError):
        return None
