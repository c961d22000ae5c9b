"""Trials on a file of made-up ZsRE records with a local checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def zsre_line(number: int) -> dict[str, Any]:
    return {
        "subject": f"person {number}",
        "src": f"Where was person {number} born?",
        "rephrase": f"What is the birthplace of person {number}?",
        "alt": f"Town {number}",
        "answers": [f"City {number}"],
        "loc": f"nq question: who wrote book {number % 30}",
        "loc_ans": "Ada",
    }


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def spec(folder: Path, dataset: str, path: Path | None, **protocol: Any) -> dict[str, Any]:
    return {
        "method": {"name": "no_edit", "module": "no_edit"},
        "backbone": {"name": "tiny", "model": str(folder), "revision": None, "dtype": "float32"},
        "dataset": {
            "name": dataset,
            "path": None if path is None else str(path),
            "part": "report",
            "target_field": None,  # as published
        },
        "protocol": {
            "kind": "lifelong",
            "num_edits": 3,
            "edit_batch_size": 1,
            "target_ends_with_eos": True,
            **protocol,
        },
        "seed": 0,
    }
