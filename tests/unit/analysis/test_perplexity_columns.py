"""LEMoE Table 1 on passages: the paper's perplexity beside our mean, and our median beside it."""

from __future__ import annotations

from pathlib import Path

from analysis.render import render
from analysis.table_report import Options, assemble
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
    (table,) = assemble("lemoe_table1", Options(store=tmp_path))
    cells = cells_of(render([table], "markdown"), "FT-L")
    assert cells["T=600 Perpl."] == "50.00 (2) / 69.22"
    assert cells["T=600 Perpl. median"] == "9.50 (2)"  # the paper prints the mean
    assert cells["T=600 Loc."] == "0.30 (2) / 0.26"
    assert not {"T=600 Rel.", "T=600 Gen.", "T=600 Avg."} & set(cells)  # of no passage
    grace = cells_of(render([table], "markdown"), "GRACE")
    assert grace["T=600 Perpl."] == "not run / 9.34"
