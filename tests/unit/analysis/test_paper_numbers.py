"""Published numbers: loading, scaling, and what a broken file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.errors import PaperNumbersError
from analysis.metrics import MAIN
from analysis.published.paper_numbers import FOLDER, caveats, load, other_papers, read

TABLE_9 = "lemoe_table9"
HEADER = (
    "paper,table,row,setting,dataset,model,method,method_printed,variant,num_edits,batch_size,"
    "num_concepts,updates_per_concept,layer,num_experts,top_k,lora_rank,reliability,generality,"
    "locality,average,perplexity,routing_accuracy,scale,average_computed,average_consistent,note"
)


def written(folder: Path, *lines: str) -> Path:
    (folder / "made_up.csv").write_text("\n".join((HEADER, *lines)), encoding="utf-8")
    return folder


def line(
    row: str = "1", reliability: str = "0.50", average: str = "0.40", scale: str = "fraction"
) -> str:
    return (
        f"p,1,{row},batch,ZsRE,M,A,A,,30,30,,,18,10,5,8,{reliability},0.40,0.30,{average},,,"
        f"{scale},,yes,"
    )


def test_load_when_lemoe_table9_then_all_278_rows_with_the_printed_best() -> None:
    rows = load("lemoe_table9")
    best = max(rows, key=lambda row: row.scores["average"])
    assert len(rows) == 278
    # Section C.4: layer 30, 10 experts, top-k 10, rank 2048.
    assert (best.layer, best.num_experts, best.top_k, best.lora_rank) == (30, 10, 10, 2048)
    assert dict(best.scores) == {
        **{"reliability": 0.77, "generality": 0.73, "locality": 1, "average": 0.83}
    }


def test_load_when_scale_is_percent_then_scores_are_fractions() -> None:
    row = load("memoe_v1_table1")[-1]
    assert row.score("average") == pytest.approx(0.9633)


def test_load_when_a_cell_is_empty_then_none() -> None:
    selfcheck = load("lemoe_table1")[2]
    assert selfcheck.score("reliability") is None
    assert selfcheck.score("perplexity.mean") is not None  # as it stands, no share


def test_load_when_any_table_of_scores_then_it_passes_its_checks() -> None:
    tables = [
        path.stem
        for path in FOLDER.glob("*.csv")
        if ",scale,average_comp" in path.read_text("utf-8")
    ]
    assert len(tables) >= 20
    assert all(load(table) for table in tables)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([line(reliability="1.5")], "row 1: reliability is '1.5', outside"),
        ([line(reliability="x")], "reliability is 'x', not a number"),
        ([line(scale="points")], "scale is 'points'"),
        ([line(), line()], "each row number once"),
        ([], "must hold rows"),
        # (.50 + .40 + .30) / 3 = .40, not .55
        ([line(average="0.55")], "average 0.55 does not fit"),
    ],
)
def test_load_when_a_row_is_broken_then_the_error_names_it(
    tmp_path: Path, lines: list[str], said: str
) -> None:
    with pytest.raises(PaperNumbersError, match=said):
        load("made_up", written(tmp_path, *lines))


def test_load_when_there_is_no_file_then_the_error_names_it(tmp_path: Path) -> None:
    with pytest.raises(PaperNumbersError, match=r"made_up\.csv is not there"):
        load("made_up", tmp_path)


def test_load_when_a_file_has_no_scores_then_the_error_says_so() -> None:
    with pytest.raises(PaperNumbersError, match="no table of scores"):
        load("lemoe_table7")


def test_caveats_when_listed_then_each_is_of_a_table_with_numbers() -> None:
    tables = {row["table"] for row in read("caveats", ("table", "caveat"))}
    assert tables
    assert all(load(table) and caveats(table) for table in tables)
    assert caveats("arm_table2") == ()


def test_caveats_when_they_say_that_rows_repeat_then_they_do() -> None:
    def scores(table: str, *methods: str) -> list[tuple[float | None, ...]]:
        rows = [row for row in load(table) if not methods or row.method_printed in methods]
        return [tuple(map(row.score, MAIN)) for row in rows]

    assert scores("arm_table11") == scores("lemoe_table3", "GRACE", "MEMIT")
    assert scores("memoe_v2_table6")[0] == scores("memoe_v1_table4")[0]


def test_caveats_when_they_say_that_table9_is_one_batch_of_30_then_its_digits_fit() -> None:
    def fits(value: float | None, items: int) -> bool:
        assert value is not None
        return abs(round(value * items) / items - value) <= 0.0051  # two printed decimals

    assert all(
        fits(row.score("reliability"), 30) and fits(row.score("generality"), 30)
        for row in load(TABLE_9)
    )
    assert all(fits(row.score("locality"), 60) for row in load(TABLE_9))
    # a batch of 31 would not do
    assert not all(fits(row.score("reliability"), 31) for row in load(TABLE_9))


def test_other_papers_when_a_table_reprints_them_then_what_it_prints_otherwise() -> None:
    rows = load("lemoe_table1")
    (line,) = other_papers(rows)
    source, _, rest = line.partition(": ")
    assert source == "WISE Table 2 (arXiv:2405.14768)"
    # GRACE is printed otherwise, the others are not in LEMoE's table
    assert rest.split("; ") == [
        "MEMIT one by one at T=100 0.02 0.02 0.02",
        "MEMIT one by one at T=1000 0.04 0.04 0.02",
        "GRACE at T=100 0.96 0.15 1.00",
        "GRACE at T=1000 0.93 0.08 1.00",
        "WISE-Merge at T=100 0.90 0.81 1.00",
        "WISE-Merge at T=1000 0.77 0.72 1.00",
    ]
    assert other_papers([row for row in rows if row.model == "Mistral-7B"]) == ()
    assert other_papers([row for row in rows if row.dataset == "SelfCheckGPT"]) == ()
    assert other_papers(load("arm_table1")) == ()


def test_other_papers_then_each_row_is_beside_a_table_and_has_a_source() -> None:
    cells = read("other_papers", ("beside", "source"))
    assert all(load(cell["beside"]) and "arXiv:" in cell["source"] for cell in cells)
    assert len(load("other_papers")) == len(cells) == 18


def test_other_papers_when_a_score_is_out_of_range_then_the_row_is_named(tmp_path: Path) -> None:
    text = (FOLDER / "other_papers.csv").read_text("utf-8")
    (tmp_path / "other_papers.csv").write_text(text.replace("0.15", "1.15"), encoding="utf-8")
    with pytest.raises(PaperNumbersError, match=r"other_papers.csv row 15: generality is '1.15'"):
        other_papers(load("lemoe_table1"), tmp_path)
