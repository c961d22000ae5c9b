"""The cells of a grid that a published table prints, which a scheduler can be told to finish."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable

from orchestrator.errors import UsageError
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.settings.models import SweepConfig

PUBLISHED = "published"  # in `scheduler.protect`


def printed_arms(config: SweepConfig, cells: Iterable[TrialSpec]) -> frozenset[str]:
    """Names of the arms that stand for a printed cell.

    Raises:
        UsageError: If the ablation does not say where its printed cells stand, or they cannot be
            read there.
    """
    listed = config.printed_cells
    if listed is None:
        raise UsageError(
            f"scheduler.protect={PUBLISHED}: ablation={config.ablation} has no printed_cells"
        )
    path = config.spaces.folder / listed.file
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        printed = {tuple(float(row[column]) for column in listed.columns.values()) for row in rows}
    except (OSError, KeyError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"printed_cells.file={listed.file}: cannot be read: {reason}") from error
    return frozenset(
        cell.arm
        for cell in cells
        if not printed.isdisjoint(
            itertools.product(*(_published(cell, key) for key in listed.columns))
        )
    )


def _published(cell: TrialSpec, key: str) -> list[float]:
    """The published values of a key that a cell stands for."""
    return [float(value) for value in cell.published.get(key, ())]
