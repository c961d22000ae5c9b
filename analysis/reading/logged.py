"""One run as MLflow holds it, whether read from a database or a server."""

from __future__ import annotations

from typing import NamedTuple


class LoggedRun(NamedTuple):
    """One run.

    Attributes:
        run_id: MLflow's id.
        started: Milliseconds since 1970.
        artifact_uri: Folder of the artifacts.
        tags: Name -> text.
        metrics: Name -> the last value logged, NaN as such.
    """

    run_id: str
    started: int
    artifact_uri: str
    tags: dict[str, str]
    metrics: dict[str, float]
