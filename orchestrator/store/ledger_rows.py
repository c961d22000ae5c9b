"""The two kinds of rows in the ledger: a trial's checkpoint, and its end; pure.

A line bears the number of the schema that it was written with. A later version may add a field,
which an older reader leaves out; a change that an older reader would misread raises the number.
Rows of the first versions bear none: they are read as schema 1, which only gained fields.
"""

from __future__ import annotations

import dataclasses
import marshal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from orchestrator.planning.trial_spec import TrialSpec

SCHEMA = 1
STATUSES = ("finished", "failed", "diverged", "stopped")


class NewerSchemaError(ValueError):
    """A row was written with a schema that this version does not know."""

    def __init__(self, schema: int) -> None:
        """`schema` is the row's."""
        super().__init__(f"a row of schema {schema}; this version reads up to {SCHEMA}")
        self.schema = schema


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """What a trial reported at a rung.

    Attributes:
        fingerprint: Fingerprint of the trial.
        values: The report, flat: `progress`, `edits_seen`, the scores of a rung, `compared` where a
            scheduler compares, `compared_by` with the metric's name, and what the trial runs on.
        time: When it was written, seconds since 1970; the ledger sets it.
    """

    EVENT: ClassVar[str] = "checkpoint"

    fingerprint: str
    values: Mapping[str, Any] = field(default_factory=dict)
    time: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The line of the ledger."""
        return self._head() | dict(self.values) | self._head()  # a report cannot rename its row

    def _head(self) -> dict[str, Any]:
        own = {"fingerprint": self.fingerprint, "time": self.time}
        return {"event": self.EVENT, "schema": SCHEMA, **own}


@dataclass(frozen=True, slots=True)
class EndRow:
    """How a trial ended, whichever ablation ran it; MLflow can be rebuilt from it.

    Attributes:
        fingerprint: Fingerprint of the trial.
        status: One of `STATUSES`.
        row_id: Id of this row, to tell it from an earlier end of the same trial.
        time: When it was written, seconds since 1970; the ledger sets it.
        stop_reason: `completed`, the rule that stopped the trial, or else its status.
        error: Why it failed or diverged.
        seconds: Wall time.
        fidelity: Progress at its end, in [0, 1].
        records: Name of the file with its per-record scores.
        metrics: All numbers that it reported last.
        checkpoints: Its reports before, oldest first, and behind them the points of its curve.
        compared_by: Metric whose value is `compared` among the metrics; empty where none is, and in
            rows of the first versions.
        micro_batch: Most rows at a time, or `whole`.
        spec: `TrialSpec.to_dict()`.
        resolved: `Resolved.identity`.
        provenance: Commit, versions and source hash of the driver.
    """

    EVENT: ClassVar[str] = "end"

    fingerprint: str
    status: str
    row_id: str = ""
    time: float = 0.0
    stop_reason: str | None = None
    error: str | None = None
    traceback: str | None = None
    seconds: float = 0.0
    fidelity: float = 0.0
    records: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: Sequence[Mapping[str, Any]] = ()
    device: str = ""
    micro_batch: str = ""
    compared_by: str = ""
    host: str = ""
    gpu: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    resolved: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def ablation(self) -> str:
        """Ablation of the sweep that ran the trial; other ablations may count it as theirs, too."""
        return str(self.spec.get("ablation", ""))

    def to_json(self) -> dict[str, Any]:
        """The line of the ledger."""
        values = {name: getattr(self, name) for name in _END_FIELDS}
        return {"event": self.EVENT, "schema": SCHEMA, **values}


LedgerRow = CheckpointRow | EndRow
_END_FIELDS = tuple(each.name for each in dataclasses.fields(EndRow))
_MAPPINGS = ("metrics", "spec", "resolved", "provenance")
_HEAD = ("event", "schema", "fingerprint", "time")
_PLAIN = 2  # form of `marshal` in which equal values are equal bytes


class Shared:
    """Mappings that are equal in many rows, of which one is kept.

    A row's settings and its provenance stand in hundreds of others: of 100,000 rows they would take
    a gigabyte.
    """

    def __init__(self) -> None:
        """None is known."""
        self._kept: dict[bytes, Mapping[str, Any]] = {}

    def one(self, values: dict[str, Any]) -> Mapping[str, Any]:
        """The first mapping that was like this one; nobody changes it."""
        return self._kept.setdefault(marshal.dumps(values, _PLAIN), values)


def read_row(values: Any, shared: Shared | None = None) -> LedgerRow | None:
    """The row of a line that was parsed as JSON; None if it is not a row.

    A field that a row lacks, because it was written before the field existed, has its default.

    Args:
        values: What the line holds.
        shared: Of all rows that are read; None: of this one alone.

    Raises:
        NewerSchemaError: If it was written with a later schema.
    """
    if not isinstance(values, dict):
        return None
    schema = values.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema < 1:
        return None
    if schema > SCHEMA:
        raise NewerSchemaError(schema)
    fingerprint, time = values.get("fingerprint"), values.get("time")
    if not isinstance(fingerprint, str) or not isinstance(time, int | float):
        return None
    if values.get("event") == CheckpointRow.EVENT:
        report = {key: value for key, value in values.items() if key not in _HEAD}
        return CheckpointRow(fingerprint, report, time)
    if values.get("event") != EndRow.EVENT or values.get("status") not in STATUSES:
        return None
    if not all(isinstance(values.get(name, {}), dict) for name in _MAPPINGS):
        return None
    if not isinstance(values.get("seconds", 0.0), int | float):
        return None
    if spec := values.get("spec"):
        try:
            TrialSpec.from_dict(spec)
        except ValueError:
            return None
    shared = shared or Shared()
    found = {name: values[name] for name in _END_FIELDS if name in values}
    for name in ("resolved", "provenance"):
        if name in found:
            found[name] = shared.one(found[name])
    if spec:
        found["spec"] = {
            key: shared.one(value) if isinstance(value, dict) else value
            for key, value in spec.items()
        }
    return EndRow(**found)
