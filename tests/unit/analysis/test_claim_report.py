"""From a store to verdicts: one ablation of MEMoE v1 Table 5, three seeds, written by hand."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from analysis.claims import main
from analysis.errors import AnalysisError
from analysis.reports.claim_report import Options, report
from tests.end_to_end.commands import copy_database
from tests.unit.analysis_store import LIFELONG, Writer
from tests.unit.published_store import SERIAL

# Generality by seed; reliability and locality are equal everywhere.
GENERALITY = {
    "knowledge_anchor": (0.90, 0.91, 0.89),
    "token": (0.80, 0.81, 0.79),
    "sentence": (0.85, 0.86, 0.84),  # above token, not below it as the paper has it
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    writer = Writer(tmp_path_factory.mktemp("claims"))
    for arm, values in GENERALITY.items():
        for seed, value in enumerate(values):
            scores = (1.0, value, 1.0)
            tags = {"paper": "memoe_v1_table5", "swept": {"arm": arm}, "method": "memoe_v1"}
            writer.trial("memoe_routing_input", arm, seed, scores, **tags)
    return writer.store


def test_report_when_csv_then_each_comparison_has_its_difference_and_verdict(store: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(report(["memoe_v1.c2"], Options((store,)), "csv"))))
    generality = {
        line["comparison"]: (float(line["difference"]), line["verdict"])
        for line in lines
        if line["score"] == "generality"
    }
    assert generality == {
        "knowledge_anchor above token": (pytest.approx(0.10), "confirmed"),
        "knowledge_anchor above sentence": (pytest.approx(0.05), "confirmed"),
        "token above sentence": (pytest.approx(-0.05), "refuted"),
    }
    others = [line for line in lines if line["score"] != "generality"]
    assert [line["verdict"] for line in others] == ["confirmed"] * 4  # within .005: equal
    assert {line["claim_verdict"] for line in lines} == {"refuted"}
    assert {line["seeds"] for line in lines} == {"3"}


def test_report_when_markdown_then_what_was_not_run_is_named_with_its_ablation(store: Path) -> None:
    lines = report(["memoe_v1"], Options((store,)), "markdown").splitlines()
    heading = "## Published claims on backbone facts, dataset facts: "
    assert lines[0] == heading + "0 confirmed, 1 refuted, 0 undecided, 8 not run"
    assert "### memoe_v1.c2: refuted" in lines
    missing = next(line for line in lines if line.startswith("- not run"))
    assert "memoe_v1.c1 (memoe_batch)" in missing
    assert "memoe_v1.c4 (memoe_experts, memoe_layers)" in missing


def test_report_when_markdown_then_each_claim_says_what_its_comparisons_demand(store: Path) -> None:
    lines = report(["memoe_v1.c2"], Options((store,)), "markdown").splitlines()
    rules = [line for line in lines if line.startswith(("- above: ", "- within: "))]
    assert [line.partition(":")[0] for line in rules] == ["- above", "- within"]
    assert "confirmed where the interval of the difference lies above 0" in rules[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MEMoE v1 above its baselines on both models, v2 in order on one of them, twelve orders."""
    writer = Writer(tmp_path_factory.mktemp("models"))
    for backbone, last in (("facts", 0.3), ("llama2_7b", 0.7)):
        own = {"backbone": backbone, "backbone_fingerprint": backbone}
        averages = {"memoe_v1": 0.9, "ft_l": 0.2, "grace": 0.6}
        protocols = {"single": 0.9, "batch": 0.8, "sequential_batch": 0.6, "sequential": last}
        for seed in range(3):
            for arm, value in averages.items():
                tags = own | {"paper": "memoe_v1_table1", "method": arm, "swept": {"method": arm}}
                writer.trial("memoe_batch", f"{arm} {backbone}", seed, (value,) * 3, **tags)
            for arm, value in protocols.items():
                tags = own | {"paper": "memoe_v2_table4", "swept": {"arm": arm}}
                writer.trial("memoe_models", f"{arm} {backbone}", seed, (value,) * 3, **tags)
    for order in range(12):
        tags: dict[str, Any] = {"paper": "lemoe_figure3", "method": "conventional_moe"}
        tags["swept"] = {"protocol.num_edits": 20, "protocol.order_seed": order}
        tags["published"] = {"protocol.num_edits": [100], "protocol.order_seed": [order]}
        similar = {"within_batch_similarity": 0.3 + order / 100}
        similar["between_batch_similarity"] = 0.9 + order / 100  # rises, where the paper's falls
        reliability = 0.3 + order / 20
        three = (reliability, 0.5, 0.9)
        writer.trial("lemoe_order", f"order={order}", 0, three, numbers=similar, **tags)
    return writer.store


def test_report_when_baselines_were_not_run_then_they_are_named_and_left_out(models: Path) -> None:
    text = report(["memoe_v1.c1"], Options((models,)), "markdown")
    first, _, over = text.partition("## Claims that name several models")
    assert first.count("### memoe_v1.c1: confirmed") == 2  # on either backbone
    assert first.count("memoe_v1 above ft_l") == 2
    line = (
        "- without what was not run (counted where it was run): memoe_v1 above ft_m; memoe_v1 "
        "above lora; memoe_v1 above memit; memoe_v1 above mend; memoe_v1 above comeba_hk; "
        "memoe_v1 above serac"
    )
    assert first.splitlines().count(line) == 2
    assert "### memoe_v1.c1: confirmed" in over
    absent = "GPT2-XL, ZsRE; GPT2-XL, CounterFact; LLaMA2-7B, ZsRE; LLaMA2-7B, CounterFact"
    assert f"- the paper's models and data sets that were not run: {absent}" in over


def test_report_when_a_baseline_failed_then_its_reason_stands_in_the_claim(
    tmp_path: Path, empty_database: Path
) -> None:
    copy_database(empty_database, tmp_path / "store")
    writer = Writer(tmp_path / "store")
    own: dict[str, Any] = {"paper": "memoe_v1_table1"}
    for seed in range(3):
        for method, scores in (("memoe_v1", (0.9,) * 3), ("ft_l", (0.2,) * 3), ("grace", None)):
            lost = {} if scores else {"status": "failed", "stop_reason": "error", "error": "lost"}
            tags = own | lost | {"method": method, "swept": {"method": method}}
            writer.trial("memoe_batch", method, seed, scores, **tags)
    text = report(["memoe_v1.c1"], Options((writer.store,)), "markdown")
    assert "### memoe_v1.c1: undecided" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| memoe_v1 above grace")]
    assert [cell.strip() for cell in row.split("|")[3:5]] == ["grace failed 3/3", "undecided"]
    assert "memoe_v1 above memit" in text.partition("without what was not run")[2]


def test_report_when_updates_came_in_bursts_then_older_rounds_are_judged(
    tmp_path: Path, empty_database: Path
) -> None:
    copy_database(empty_database, tmp_path / "store")
    writer = Writer(tmp_path / "store")
    bursts: dict[str, Any] = {"update_order": "bursts"}

    def ran(order: dict[str, Any], by_method: dict[str, float]) -> str:
        for method, score in by_method.items():
            swept = {"method": method, "protocol.num_questions": 125}
            tags = {"paper": "arm_table1", "method": method, "swept": swept}
            tags["protocol"] = SERIAL | order
            for seed in range(3):
                name = f"{method} {len(order)}"
                writer.trial("arm_serial", name, seed, (score,) * 3, **tags)
        return report(["arm.c1"], Options((writer.store,)), "markdown")

    with pytest.raises(
        AnalysisError, match=r"arm_serial on facts, facts with .*=bursts; the claims"
    ):
        ran(bursts, {"arm": 0.2, "grace": 0.9})
    judged = ran({}, {"arm": 0.9, "grace": 0.2})
    again = ran(bursts, {"arm": 0.1, "grace": 0.9})  # the newest
    for text in (judged, again):
        (row,) = [line for line in text.splitlines() if line.startswith("| arm above grace")]
        assert [cell.strip() for cell in row.split("|")[3:5]] == ["0.700 ± 0.000 (3)", "confirmed"]
        assert "- not judged: arm_serial on facts, facts with protocol.update_order=bursts" in text


def test_report_when_one_model_refutes_then_the_claim_over_models_is_refuted(models: Path) -> None:
    text = report(["memoe_v2.c10"], Options((models,)), "markdown")
    over = text.partition("## Claims that name several models")[2].splitlines()
    assert "### memoe_v2.c10: refuted" in over
    # One by one is better than in batches there, .7 against .6.
    assert "- confirmed on facts, facts; refuted on llama2_7b, facts" in over
    assert "- needed once, and run nowhere: memoe_batch_size" in over
    lines = csv.DictReader(io.StringIO(report(["memoe_v2.c10"], Options((models,)), "csv")))
    found = {(line["backbone"], line["claim_verdict"], line["over_models"]) for line in lines}
    assert found == {("facts", "confirmed", "refuted"), ("llama2_7b", "refuted", "refuted")}


def test_report_when_orders_were_run_then_spread_and_correlations_are_judged(models: Path) -> None:
    found = csv.DictReader(io.StringIO(report(["lemoe.c7", "lemoe.c8"], Options((models,)), "csv")))
    verdicts = {}
    for line in found:
        comparison, named, method = line["comparison"].partition(", method=")
        verdicts[comparison] = (line["verdict"], line["arms"])
        assert (named, method) == (", method=", "conventional_moe")  # the paper's, section 3.3
    assert verdicts == {
        "num_edits=100 spreads by more than 0.2": ("confirmed", "12"),  # from .3 to .85
        "num_edits=1000 spreads by more than 0.2": ("not run", "0"),
        "num_edits=100 spreads more than num_edits=1000": ("not run", "0"),
        "num_edits=100 rises with within_batch_similarity": ("confirmed", "12"),
        "num_edits=1000 rises with within_batch_similarity": ("not run", "0"),
        "num_edits=100 falls with between_batch_similarity": ("refuted", "12"),
        "num_edits=1000 falls with between_batch_similarity": ("not run", "0"),
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["memoe_v3"], "no claim or paper 'memoe_v3'; papers: memoe_v1, memoe_v2, lemoe, arm;"),
        (["arm"], "no ablation in the store tests these claims; they are: arm_serial, "),
        (["stor=x"], "unknown option 'stor'; did you mean 'store'?"),
        (["format=latex"], "format is 'latex'; it must be one of markdown, beside, csv"),
        (["store=nowhere"], "store=nowhere has no mlflow.db"),
    ],
)
def test_command_when_it_cannot_answer_then_one_line_and_status_2(
    store: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if any(word.startswith("store=") for word in words) else [f"store={store}"]
    assert main([*given, *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"claims.py: {said}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_report_beside_when_two_stores_hold_two_backbones_then_each_has_a_column(
    store: Path, tmp_path: Path
) -> None:
    writer = Writer(tmp_path / "other")
    for arm, values in GENERALITY.items():
        for seed, value in enumerate(values):
            scores = (1.0, 1.0 - value, 1.0)
            tags = {"paper": "memoe_v1_table5", "swept": {"arm": arm}, "method": "memoe_v1"}
            model = {"backbone": "smollm2", "dataset": "countries", "backbone_fingerprint": "s"}
            model["fingerprint"] = f"smollm2 {arm} {seed}"
            writer.trial("memoe_routing_input", arm, seed, scores, **tags, **model)
    text = report(["memoe_v1.c2", "memoe_v1.c1"], Options((store, writer.store)), "beside")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["Claim", "facts", "smollm2, countries"] in lines
    assert ["memoe_v1.c2", "refuted", "refuted"] in lines
    first = "knowledge_anchor above token", "generality (exact)"
    assert [line[2:] for line in lines if tuple(line[:2]) == first] == [
        ["0.100 ± 0.000 (3): confirmed", "-0.100 ± 0.000 (3): refuted"]
    ]
    assert text.splitlines()[-1] == "- run nowhere: memoe_v1.c1"


def test_command_when_asked_for_ablations_then_names_those_of_the_claims_and_reads_no_store(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["store=nowhere", "lemoe.c12", "memoe_v1.c5", "--ablations"]) == 0
    assert capsys.readouterr().out.splitlines() == ["memoe_layers", "lemoe_lora"]


def test_report_when_a_pilot_or_the_part_tune_was_run_later_then_the_whole_run_is_judged(
    tmp_path: Path,
) -> None:
    writer = Writer(tmp_path)

    def trial(arm: str, seed: int, reliability: float, num_edits: int, **tags: str) -> None:
        named = {"arm": arm, "method.routing": {"full": "kv_anchor"}.get(arm, "conventional")}
        protocol = LIFELONG | {"num_edits": num_edits}
        writer.trial(
            *("lemoe_components", arm, seed, (reliability + seed / 100,) * 3),
            **{"paper": "lemoe_table4", "method": "lemoe", "swept": named, "protocol": protocol},
            fingerprint=f"{arm} {seed} {num_edits}",
            **tags,
        )

    for seed in range(3):
        trial("full", seed, 0.8, 100)
        trial("conventional_routing", seed, 0.5, 100)
    trial("full", 0, 0.3, 10)
    for seed in range(3):
        trial("full", seed, 0.3, 20, dataset_part="tune")
        trial("conventional_routing", seed, 0.5, 20, dataset_part="tune")
    text = report(["lemoe.c3"], Options((tmp_path,)), "markdown")
    assert "### lemoe.c3: confirmed" in text
    assert "- not judged: lemoe_components on facts, facts, dataset.part=tune" in text
    assert (
        "- lemoe_components on facts, facts: judged are 6 trials with protocol.num_edits=100; "
        "left out are 1 trials with protocol.num_edits=10"
    ) in text
