"""MEMoE v2 Table 5 and ARM Table 6: what an edit costs, beside what the papers print."""

from __future__ import annotations

from pathlib import Path

from analysis.render.documents import render
from analysis.reports.table_report import Options, assemble
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
    (table,) = assemble("memoe_v2_table5", Options((tmp_path,)))
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


SERIAL = {
    **{"kind": "serial", "num_edits": 120, "edit_batch_size": 1, "num_batches": 120},
    **{"num_questions": 15, "answers_per_question": 8, "order": "given", "answers": "generated"},
}


def test_arm_table6_then_experts_that_hold_edits_and_arms_time_over_its_baselines(
    tmp_path: Path,
) -> None:
    write = Writer(tmp_path)
    own = {"paper": "arm_table6", "protocol": SERIAL}

    for method, seconds, answers, routed in (
        ("ft_l", 6.0, 3.0, {}),
        (
            "wise_retrieval",
            20.0,
            9.0,
            {"own_expert_rate": 1.0},
        ),  # of a time that did not count them
        ("arm", 24.0, 6.0, {"own_expert_rate": 1.0, "num_experts_used": 3.0}),
        ("grace", 12.0, 6.0, {"own_expert_rate": 0.5, "num_experts_used": 118.0}),
    ):
        numbers = {
            "edit_seconds": seconds,
            "evaluation_seconds": answers,
            "edit_state_bytes": 2.5e6,
        }
        write.trial("arm_serial", method, 0, numbers=numbers | routed, method=method, **own)
    (table,) = assemble("arm_table6", Options((tmp_path,)))
    printed = render([table], "markdown")
    # 24 s and 6 s over 120 edits
    assert cells_of(printed, "ARM") == {
        "Method": "ARM",
        "Training": "32 layers + 3 experts",
        "Inference": "32 layers + 3 experts + proj. router",
        "ours": "arm, serial, 120 edits",
        "Experts": "3.0 (1) / 3.0",
        "MB": "2.50 (1)",
        "GPU GiB": "not measured",
        "Edit s": "0.200 (1)",
        "Answers s": "0.050 (1)",
    }
    assert cells_of(printed, "WISE")["Experts"] == "not measured / 3.0"
    assert cells_of(printed, "LLaMA2 finetuned")["Experts"] == "none / 0.0"
    assert cells_of(printed, "grace")["Experts"] == "118.0 (1) / not in the paper"
    # 24 / 6 and 24 / 20, whatever the answers took
    assert (
        "time of all edits, arm, serial, 120 edits: 4.00 that of ft_l, 1.20 that of wise_retrieval"
        in printed
    )
