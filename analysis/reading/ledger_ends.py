"""Reads from a store's ledger which trials have ended, so that MLflow should hold them.

Tables are made of what MLflow holds, and MLflow cannot say what it lacks.
"""

from __future__ import annotations

import json
from pathlib import Path

_END = b'{"event":"end"'  # as the driver writes it; other lines need not be read


def ledger_ends(store: Path) -> dict[str, dict[str, str]]:
    """Id of each trial's last end row, by ablation and fingerprint, over all drivers of a store.

    Empty if there is no ledger, as on a machine that prints a table from a server. Lines that
    cannot be read are left out: the driver reports them.
    """
    last: dict[str, tuple[float, str, str]] = {}  # of each fingerprint
    for path in sorted((store / "ledger").glob("*.jsonl")):
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError:
            continue
        for line in lines:
            if not line.startswith(_END):
                continue
            try:
                row = json.loads(line)
                found = float(row["time"]), str(row["spec"]["ablation"]), str(row["row_id"])
            except (ValueError, KeyError, TypeError):
                continue
            if row["fingerprint"] not in last or last[row["fingerprint"]][0] <= found[0]:
                last[row["fingerprint"]] = found
    ends: dict[str, dict[str, str]] = {}
    for fingerprint, (_, ablation, row_id) in last.items():
        ends.setdefault(ablation, {})[fingerprint] = row_id
    return ends
