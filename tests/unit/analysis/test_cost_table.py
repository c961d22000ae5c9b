"""MEMoE v2 Table 5: seconds an edit, whatever the number of batches, beside the paper's."""

from __future__ import annotations

from pathlib import Path

from analysis.render import render
from analysis.table_report import Options, assemble
from tests.unit.analysis.test_perplexity_columns import cells_of
from tests.unit.analysis_store import BATCH, Writer


def test_costs_are_those_of_one_edit_beside_the_paper_s(tmp_path: Path) -> None:
    write = Writer(tmp_path)
    seconds = {"edit_seconds": 45.0, "evaluation_seconds": 9.0}
    for method, numbers in (
        ("ft_l", seconds | {"peak_gpu_gib": 13.5}),
        ("memoe_v2", seconds),
        ("conventional_moe", seconds),
    ):
        write.trial(
            *("memoe_batch", method, 0),
            numbers=numbers,
            method=method,
            paper="memoe_v2_table5",
            protocol=BATCH | {"num_batches": 3},
        )
    (table,) = assemble("memoe_v2_table5", Options(store=tmp_path))
    printed = render([table], "markdown")
    # 45 s over 3 batches of 30 edits; the paper trains 30 edits in 28 minutes.
    assert cells_of(printed, "FT-L") == {
        "Method": "FT-L",
        "GPU GiB / GB": "13.50 (1) / 26.00",
        "Edit s": "0.50 (1) / 56.00",
        "Answers s": "0.10 (1) / 0.51",
    }
    memoe = cells_of(printed, "MEMoE")
    assert memoe["GPU GiB / GB"] == "not measured / 24.00"
    assert memoe["Edit s"] == "0.50 (1) / 10.00"
    assert cells_of(printed, "GRACE")["Edit s"] == "not run / not printed"
    assert cells_of(printed, "conventional_moe")["Edit s"] == "0.50 (1) / not in the paper"
