"""`scheduler.protect=published`: a scheduler finishes the cells that a published table prints."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.plan import Plan, expand
from orchestrator.settings.loading import load

PROTECTED = "scheduler.protect=[published]"
TABLES = Path(__file__).resolve().parents[3] / "analysis" / "paper_tables"


def plan(*typed: str) -> Plan:
    return expand(load([*typed, PROTECTED]))


def printed(table: str, *columns: str) -> set[tuple[int, ...]]:
    with (TABLES / f"{table}.csv").open(newline="") as lines:
        return {tuple(int(row[name]) for name in columns) for row in csv.DictReader(lines)}


@pytest.mark.parametrize(
    ("ablation", "table", "columns"),
    [
        ("lemoe_lora", "lemoe_table9", ("layer", "num_experts", "top_k", "lora_rank")),
        ("memoe_grid", "memoe_v1_table6", ("layer", "num_experts", "top_k")),
    ],
)
def test_protected_at_the_papers_scale_then_exactly_the_printed_cells(
    ablation: str, table: str, columns: tuple[str, ...]
) -> None:
    typed = (f"ablation={ablation}", "scale=paper", "backbone=llama2_7b", "scheduler=asha")
    made = plan(*typed, "dataset.max_edits=null")
    keys = ("edit_layer", "num_experts", "top_k", "lora_rank")[: len(columns)]

    def cell(values: dict[str, Any]) -> tuple[int, ...]:
        return tuple(values[f"method.{key}"] for key in keys)

    found = {cell(spec.swept) for spec in made.trials if spec.arm in made.protected}
    assert found == printed(table, *columns)
    assert len(made.protected) == len(found)


def test_protected_on_a_smaller_backbone_then_the_arms_that_stand_for_printed_cells() -> None:
    made = plan("ablation=lemoe_lora", "scheduler=asha")
    cells = printed("lemoe_table9", "layer", "num_experts", "top_k", "lora_rank")
    for spec in made.trials:
        values = spec.published
        stands = any(
            (layer, experts, top_k, rank) in cells
            for layer in values["method.edit_layer"]
            for experts in values["method.num_experts"]
            for top_k in values["method.top_k"]
            for rank in values["method.lora_rank"]
        )
        assert (spec.arm in made.protected) == stands


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("ablation=smoke",), "ablation=smoke has no printed_cells"),
        (
            ("ablation=lemoe_lora", "printed_cells={file:../no.csv,columns:{method.top_k:top_k}}"),
            r"printed_cells.file=../no.csv: cannot be read: FileNotFoundError",
        ),
    ],
)
def test_protected_when_no_cells_are_known_then_one_line(
    typed: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        plan(*typed, "scheduler=asha")
