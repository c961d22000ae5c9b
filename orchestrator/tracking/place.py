"""Names where results are, as the commands of `analysis` are told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Store:
    """A folder and, if one holds the runs, an MLflow server."""

    folder: Path
    server: str | None = None

    @property
    def words(self) -> list[str]:
        """As one types it behind a command of `analysis`."""
        return [f"store={self.folder}", *([f"mlflow={self.server}"] if self.server else [])]
