"""MEMoE v2 Figure 5: what each expert answers, by how rare it is."""

from __future__ import annotations

from pathlib import Path

from analysis.render.documents import render
from analysis.reports.table_report import Options, assemble
from tests.unit.analysis_store import Writer


def test_each_expert_has_its_mean_and_one_without_edits_in_a_seed_says_so(tmp_path: Path) -> None:
    write = Writer(tmp_path)
    for seed, mean in ((0, 1.5), (1, 2.5)):
        numbers = {"number.mean_gece_expert_0": mean, "number.mean_uncertainty_expert_0": 0.25}
        numbers |= {"number.mean_gece_expert_10": 40.0} if seed else {}
        write.trial(
            *("memoe_batch", "memoe_v2", seed),
            numbers=numbers,
            method="memoe_v2",
            paper="memoe_v2_figure5",
        )
    (table,) = assemble("memoe_v2_figure5", Options((tmp_path,)))
    lines = [line for line in render([table], "markdown").splitlines() if line.startswith("| mem")]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines] == [
        ["memoe_v2", "1", "2.000 (2)", "0.250 (2)"],
    ]
