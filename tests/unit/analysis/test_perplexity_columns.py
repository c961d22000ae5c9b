"""LEMoE Tables 1 and 6: the paper's perplexities of passages beside ours, and before any edit."""

from __future__ import annotations

from pathlib import Path

from analysis.render.documents import render
from analysis.reports.table_report import Options, assemble
from tests.unit.analysis_store import Writer

STREAM = {"kind": "lifelong", "num_edits": 600, "edit_batch_size": 1, "num_batches": 600}


def cells_of(printed: str, label: str) -> dict[str, str]:
    """The cells of a row by their headings, without intervals."""
    table = [line for line in printed.splitlines() if line.startswith("|")]
    heads = [cell.strip() for cell in table[0].split("|")[1:-1]]
    (row,) = [line for line in table if line.split("|")[1].strip() == label]
    return dict(zip(heads, [cell.strip() for cell in row.split("|")[1:-1]], strict=True))


def test_table1_on_passages_then_perplexities_stand_beside_the_printed_ones(
    tmp_path: Path,
) -> None:
    numbers = {
        "perplexity.mean.final": 50.0,
        "perplexity.median.final": 9.5,
        "locality_far.token.final": 0.3,
    }
    write = Writer(tmp_path)
    for seed in range(2):
        write.trial(
            *("lemoe_lifelong", "ft_l", seed),
            numbers=numbers,
            method="ft_l",
            paper="lemoe_table1",
            dataset="hallucination",
            target_field="target_new",
            protocol=STREAM,
        )
    (table,) = assemble("lemoe_table1", Options((tmp_path,)))
    cells = cells_of(render([table], "markdown"), "FT-L")
    assert cells["T=600 Perpl."] == "50.00 (2) / 69.22"
    assert cells["T=600 Perpl. median"] == "9.50 (2)"  # the paper prints the mean
    assert cells["T=600 Loc."] == "0.30 (2) / 0.26"
    assert not {"T=600 Rel.", "T=600 Gen.", "T=600 Avg."} & set(cells)  # of no passage
    grace = cells_of(render([table], "markdown"), "GRACE")
    assert grace["T=600 Perpl."] == "not run / 9.34"


def test_table6_then_what_is_known_before_editing_beside_the_printed_rows(tmp_path: Path) -> None:
    write = Writer(tmp_path)
    for model, dataset, size, seed, numbers in (
        ("llama2_7b", "zsre", 1000, 0, {"reliability.token.before": 0.3, "known_share": 0.5}),
        ("llama2_7b", "zsre", 1000, 1, {"reliability.token.before": 0.4, "known_share": 0.7}),
        ("mistral_7b", "hallucination", 600, 0, {"perplexity.mean.before": 25.5}),
        ("facts", "facts", 100, 0, {"reliability.token.before": 0.25}),
        ("facts", "facts", 40, 0, {"reliability.token.before": 0.5}),
    ):
        for arm in ("lemoe", "grace"):  # both edit the same
            write.trial(
                *("lemoe_lifelong", f"{arm} {dataset} {size}", seed),
                numbers=numbers,
                method=arm,
                paper="lemoe_table6",
                dataset=dataset,
                backbone=model,
                backbone_fingerprint=model,
                protocol=STREAM | {"num_edits": size},
            )
    (table,) = assemble("lemoe_table6", Options((tmp_path,)))
    lines = [line for line in render([table], "markdown").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[1:]]
    nothing = "not measured / not printed"
    missing = "not run / not printed"
    assert cells == [
        ["ZsRE", "LLaMA2-7B", "1000", "1000", "0.35 (2) / 0.36", nothing, "0.60 (2)"],
        ["ZsRE", "Mistral-7B", "1000", "not run", "not run / 0.39", missing, "not run"],
        ["SelfCheckGPT", "LLaMA2-7B", "600", "not run", missing, "not run / 27.40", "not run"],
        [
            *("SelfCheckGPT", "Mistral-7B", "600", "600"),
            *(nothing, "25.50 (1) / 19.40", "not measured"),
        ],
        *(
            [
                *("facts", "facts", "not in the paper", size),
                *(f"{known} (1) / not in the paper", "not measured / not in the paper"),
                "not measured",
            ]
            for size, known in (("40", "0.50"), ("100", "0.25"))
        ),
    ]
