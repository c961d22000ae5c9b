"""Makes the ledger's row of an ended trial, and labels it for one ablation; pure.

The ledger's row belongs to the trial, whichever ablation ran it; the tags belong to the ablation.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.planning.cell import Cell
from orchestrator.planning.identity import fingerprint
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.redaction import redacted
from orchestrator.settings.models import SweepConfig
from orchestrator.store.ledger_rows import EndRow

Row = dict[str, Any]  # what a trial reports

MAX_RETRIES = 2  # of a lost node or a killed actor; a defect would only repeat itself


# What an arm is of, as tables divide them.
_CONTEXT = (
    *("backbone", "backbone_fingerprint"),
    *("dataset", "dataset_digest", "dataset_part", "target_field"),
)


@dataclass
class Outcome:
    """The outcome of a sweep: counts, failures and what could not be sent."""

    counts: dict[str, int] = field(default_factory=dict)
    num_settled_before: int = 0
    num_other_source: int = 0  # of those, results of other source code
    failures: list[EndRow] = field(default_factory=list)
    num_unsent: int = 0  # results that MLflow does not have yet
    tracking_failures: list[str] = field(default_factory=list)
    copies_failure: str = ""  # why the copies lack some of it
    experiment_id: str = ""
    was_interrupted: bool = False
    standstill: str = ""  # what stood still, if that ended the sweep


@dataclass(frozen=True)
class LabelledRow:
    """An end row with the names that one ablation gives it.

    Attributes:
        end: The ledger's row.
        tags: Tags of its run in MLflow.
        swept: Parameters of its run in MLflow.
        run_name: Name of its run, for people.
    """

    end: EndRow
    tags: Mapping[str, Any]
    swept: Mapping[str, Any]
    run_name: str


def end_row(
    cell: Cell,
    row: Mapping[str, Any],
    *,
    stop_reason: str | None,
    checkpoints: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, str],
) -> EndRow:
    """The ledger's last row of a trial.

    Args:
        cell: The trial.
        row: What it reported last; `status` is finished, failed, diverged or stopped.
        stop_reason: Name of the rule that stopped it, if one did.
        checkpoints: Rows of its rungs; points of its `curve` are put behind them.
        provenance: Commit, versions and host of the driver.
    """
    status = str(row["status"])
    reason = {"finished": "completed", "stopped": stop_reason or "stopped"}.get(status, status)
    numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and k != "done"}
    return EndRow(
        fingerprint=cell.key,
        status=status,
        row_id=uuid.uuid4().hex,
        time=time.time(),
        stop_reason=reason,
        error=_shown(row.get("error")),
        traceback=_shown(row.get("traceback")),
        seconds=row.get("seconds", 0.0),
        fidelity=row.get("progress", 0.0),
        records=row.get("records"),
        metrics=numbers | dict(cell.resolved.counts),
        checkpoints=[dict(point) for point in (*checkpoints, *row.get("curve", ()))],
        device=row.get("device", ""),
        micro_batch=_micro_batch(row),
        compared_by=row.get("compared_by", ""),
        host=row.get("hostname", ""),
        gpu=row.get("gpu", ""),
        spec=cell.spec.to_dict(),
        resolved=cell.resolved.identity,
        provenance=dict(provenance),
    )


def _asked(spec: TrialSpec) -> dict[str, Any]:
    """What a trial was asked beside its edits; it stands with the protocol that it was run by."""
    if not spec.evaluate:
        return {}
    questions = spec.evaluate["questions"]
    return {
        "ability": ", ".join(spec.evaluate["ability"]),
        "ability_questions": "all" if questions is None else questions,
    }


def _micro_batch(row: Mapping[str, Any]) -> str:
    """Most rows at a time, `whole` if never divided; empty if the trial reported nothing."""
    return str(row.get("micro_batch", "whole")) if "device" in row else ""


def _shown(text: str | None) -> str | None:
    return None if text is None else redacted(text)


def labelled(end: EndRow, spec: TrialSpec, config: SweepConfig) -> LabelledRow:
    """An end row with its MLflow tags, swept parameters and run name in this sweep.

    Two tags are hashes: `labels`, of what another sweep may label otherwise, and `place`, of where
    the arm stands in tables, which it shares with the same arm under settings that are not swept.
    """
    tags = {
        "ablation": config.ablation,
        "arm": spec.arm,
        # Seeds of one arm have a mean only when nothing but the seed differs.
        "arm_fingerprint": fingerprint(replace(spec, seed=0), end.resolved),
        "seed": spec.seed,
        "method": spec.method["name"],
        "module": spec.method["module"],
        "method_config": spec.method,
        "paper": ", ".join(config.paper),
        "scale": config.scale,
        "status": end.status,
        "stop_reason": end.stop_reason,
        "fidelity": f"{end.fidelity:g}",
        "error": end.error or "",
        "protocol": spec.protocol | _asked(spec),
        "backbone": spec.backbone["name"],
        "backbone_model": spec.backbone.get("model") or "",
        "dequantised_from": spec.backbone.get("dequantised_from") or "",
        "backbone_revision": spec.backbone.get("revision") or "",
        "num_layers": spec.backbone["num_layers"],
        "hidden_size": spec.backbone["hidden_size"],
        "dtype": spec.backbone["dtype"],
        "dataset": spec.dataset["name"],
        "dataset_part": spec.dataset.get("part") or "",
        "target_field": spec.dataset.get("target_field") or "",
        "published": spec.published,
        "swept": spec.swept,
        "device": end.device,
        "micro_batch": end.micro_batch,
        "host": end.host,
        "gpu": end.gpu,
        **end.resolved,
        **end.provenance,
    }
    tags["labels"] = _hash(tags, ("published", "swept", "scale"))
    tags["place"] = _hash(tags, ("arm", "protocol", *_CONTEXT))
    return LabelledRow(end, tags, spec.swept, f"{spec.arm} · seed {spec.seed}")


def _hash(tags: Mapping[str, Any], names: Iterable[str]) -> str:
    told = json.dumps([tags.get(name) for name in names], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]
