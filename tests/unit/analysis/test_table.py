"""The command, on a real store."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis import table
from tests.unit.analysis_store import shared_store

COMMAND = Path(table.__file__)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_store(tmp_path_factory)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert table.main(words) == 0
    return capsys.readouterr().out


def line_of(text: str, *labels: str) -> list[str]:
    """Cells of the only line of a Markdown table that begins with `labels`."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    (found,) = [line for line in cells if tuple(line[: len(labels)]) == labels]
    return found[len(labels) :]


def test_table9_when_three_seeds_then_mean_interval_and_paper_number(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "lemoe_table9", f"store={store}")
    # Paper row 87: 0.43 0.23 1.00 0.56. Ours: .9 with half width 4.3027 * .1 / sqrt 3 = .25;
    # averages (.8 .9 1.0 + 1.5) / 3 = .7667 .8 .8333, mean .8, half .0828
    assert line_of(text, "18", "10", "5", "512") == [
        *("layer 9/16, rank 16/128", "0.90 ± 0.25 (3) / 0.43", "0.50 ± 0.00 (3) / 0.23"),
        *("1.00 ± 0.00 (3) / 1.00", "0.80 ± 0.08 (3) / 0.56"),
    ]


def test_table9_when_trials_did_not_end_then_the_cells_say_so(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "lemoe_table9", f"store={store}")
    assert line_of(text, "16", "10", "5", "16")[1] == "failed 1/3 / 0.17"
    assert line_of(text, "18", "10", "5", "2048")[1] == "diverged / 0.73"
    assert line_of(text, "16", "10", "5", "512")[1] == "pruned 1/1 / 0.50"
    assert "- 1 trial(s) ended by: out of memory" in text
    # middle, small, weak, top, part, blown, no_edit, and cut, the only one that was stopped
    assert "- pruned: 1 of 8 arms have no mean; comparisons are over the others" in text


def test_table9_when_an_arm_stands_for_several_ranks_then_printed_ones_stand_alone(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "lemoe_table9", f"store={store}")
    at = "layer 15/16, rank 2/128"
    # Two subjects, one with every answer right: draws reach from 0 to 1.
    assert line_of(text, "30", "10", "5", "16")[:2] == [at, "0.50 [0.00, 1.00] (1) / 0.53"]
    assert line_of(text, "30", "10", "5", "32, 64")[1] == "0.50 [0.00, 1.00] (1) / not printed"


def test_table9_when_printed_then_agreement_stands_below(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "lemoe_table9", f"store={store}")
    # Printed cells with a mean of ours: 18/512 (.9, .43), 30/16 (.5, .53), 30/512 (.6, .53).
    # Ranks 3 1 2 against 1 2.5 2.5: d = 2, -1.5, -.5; Pearson of ranks -1.5 / sqrt(2 * 1.5) = -.87
    assert "Rel. -0.87 (n = 3)" in text
    assert "- the paper's own numbers: every reliability and generality is a multiple of" in text
    # 10/512 with 10 experts and top-5 fails ours and is not printed.
    assert "over 4 published cells: passed by ours and printed 3, passed by ours only 0" in text
    assert "neither 1; agreement 1.00" in text
    assert "left out of that count: 2 cells" in text  # ranks 32 and 64, which no row has


def test_table9_when_printed_then_says_what_the_numbers_rest_on(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "lemoe_table9", f"store={store}")
    for line in (
        "- backbone: facts (16 layers, width 128)",
        "- target field: target_new",
        "- part: report",
        "- seeds: 1 to 3 per arm (0, 1, 2)",
        "- commit: 0123456789ab (dirty)",
        "- mixed device: cpu, cuda",
        "- mixed micro_batch: 16, whole",
        "- backbone: dequantised from Q4_1",
        "- before editing: reliability 0.10, generality 0.10, locality 1.00, average 0.40",
        "- differs from the paper: backbone: ours facts, paper LLaMA2-7B; dataset: ours facts",
    ):
        assert line in text


def test_table9_when_an_arm_has_no_published_cell_then_it_stands_last(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "lemoe_table9", f"store={store}")
    found = line_of(text, "-", "-", "-", "-", "no_edit")
    assert found[0] == "0.10 (1) / not in the paper"


def test_table9_when_filtered_then_rows_below_the_filter_go(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "lemoe_table9", f"store={store}", "filter=published")
    assert "| 10      |" not in text
    assert "filter=published: 2 of 8 arms are not shown" in text


def test_table1_when_methods_are_missing_then_not_run(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "lemoe_table1", f"store={store}")
    lemoe = line_of(text, "LEMoE")
    assert lemoe[0] == "0.70 (1) / 0.83"
    assert lemoe[4] == "not run / 0.80"
    assert line_of(text, "ROME")[0] == "not run / 0.23"
    assert line_of(text, "ft_m")[0] == "0.40 (1) / not in the paper"
    assert "columns T=100: ours 20 edits in batches of 4" in text
    assert "order given (ft_m), order kmeans_filled (grace, lemoe)" in text
    # what another paper prints stands beside the table, and in none of its cells
    assert "not compared: WISE Table 2" in text
    assert "GRACE at T=1000 0.93 0.08 1.00" in text
    assert line_of(text, "GRACE")[4] == "not run / 0.97"


def test_table8_when_layers_were_scaled_then_beside_the_published_layer(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "lemoe_table8", f"store={store}")
    assert line_of(text, "18")[:2] == ["layer 9/16", "0.90 (1) / 0.80"]
    # ours .2 .9 .3 and theirs .28 .80 .43: same order
    assert "Rel. 1.00 (n = 3)" in text


def test_table4_when_a_variant_was_not_run_then_its_row_stays(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "lemoe_table4", f"store={store}")
    assert line_of(text, "- Order Planning")[:2] == ["without_order_planning", "0.70 (1) / 0.78"]
    assert line_of(text, "+ Knowledge Routing")[1] == "not run / 0.72"


def test_table_when_asked_for_an_ablation_without_a_table_then_one_row_per_arm(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "smoke", f"store={store}")
    assert line_of(text, "ft_m")[:3] == ["0.95 (1)", "0.50 (1)", "0.40 (1)"]
    below = text.partition("| ft_m")[2]
    assert "- records of the data set left out: 3 (ft_m)\n" in below
    assert ": 4 of 20 edits (ft_m)\n" in below  # what stood in for an absent subject


def test_table_when_asked_for_an_ablation_that_answers_a_table_then_its_layout(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "## lemoe_table8: " in printed(capsys, "lemoe_layers", f"store={store}")


def test_table_when_csv_then_standard_output_is_one_frame(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(
        io.StringIO(printed(capsys, "lemoe_table9", f"store={store}", "format=csv"))
    )
    row = frame[(frame["Layer"] == "18") & (frame["LoRA Rank"] == "512")].iloc[0]
    assert float(row["reliability"]) == pytest.approx(0.9)
    assert float(row["reliability_paper"]) == 0.43


def test_table_when_latex_then_a_tabular(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert r"\begin{tabular}" in printed(capsys, "smoke", f"store={store}", "format=latex")


def test_table_when_a_measure_was_not_taken_then_every_cell_says_so(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "smoke", f"store={store}", "measure=exact")
    assert line_of(text, "ft_m") == ["not measured"] * 4


def test_table_in_tokens_without_a_blank_shows_that_measure(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "numbers", f"store={store}", "measure=token_no_blank")
    assert line_of(text, "ft_m")[0] == "0.25 (2)"
    assert "- measure: token_no_blank, after the last edit" in text


def test_table_when_answers_were_generated_then_the_protocol_says_how_long(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "numbers", f"store={store}")
    (protocol,) = [line for line in text.splitlines() if line.startswith("- protocol: ")]
    assert protocol.endswith(", at most 40 to 45 tokens generated")
    assert "tokens generated" not in printed(capsys, "smoke", f"store={store}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lemoe_tabel9"], "did you mean 'lemoe_table9'? known: arm_figure4a, "),
        (["smoke", "filter=published"], "smoke has no published filter"),
        (["smoke", "measure=tokens"], "measure is 'tokens'; it must be one of token, exact"),
        (["smoke", "formt=csv"], "unknown option 'formt'; did you mean 'format'?"),
        ([], "no table was named"),
        (["smoke", "lemoe_table1"], "2 tables were named"),
    ],
)
def test_table_when_asked_wrongly_then_one_line_and_status_2(
    store: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert table.main([*words, f"store={store}"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_table_when_there_is_no_store_then_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main(["lemoe_table9", f"store={tmp_path}"]) == 2
    assert "has no mlflow.db" in capsys.readouterr().err


def test_list_when_asked_then_every_layout_with_its_question(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(capsys, "--list")
    for name in ("lemoe_table1", "lemoe_table4", "lemoe_table8", "lemoe_table9"):
        assert f"{name:20} LEMoE Table {name[-1]}" in text


def test_command_when_run_as_a_file_from_elsewhere_then_help_without_heavy_imports(
    tmp_path: Path,
) -> None:
    code = (
        "import runpy, sys; sys.argv = ['table.py', '--help']\n"
        "try: runpy.run_path(sys.path.pop(), run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'mlflow', 'pandas', 'torch'} & set(sys.modules)"
    )
    by_path = f"import sys; sys.path.append({str(COMMAND)!r})\n{code}"
    subprocess.run([sys.executable, "-c", by_path], cwd=tmp_path, check=True, capture_output=True)
    asked = [sys.executable, str(COMMAND), "--list"]
    done = subprocess.run(asked, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "lemoe_table9" in done.stdout


def test_format_auto_when_it_is_piped_then_markdown_else_as_wide_as_the_terminal(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("lemoe_table9", f"store={store}")
    assert printed(capsys, *words) == printed(capsys, *words, "format=markdown")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("NO_COLOR", "1")
    text = re.sub(r"\x1b\[\d*m", "", printed(capsys, *words))  # what is bold or dim
    assert "## " not in text
    assert max(map(len, text.splitlines())) <= 70
    assert "0.90 ± 0.25" in text


def test_format_html_then_one_document(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "lemoe_table9", f"store={store}", "format=html")
    assert text.startswith("<!DOCTYPE html>")
    assert "0.90 ± 0.25 (3)" in text
