"""Every setting that a paper states is met by the plans at scale=paper, or a listed deviation."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.papers.deviations import deviation_lines, read_deviations
from orchestrator.planning.plan import expand
from orchestrator.settings.loading import load
from orchestrator.settings.yaml_files import SearchSpaces
from tests.contract.published_settings import MET, ROOT, Row, plan, rows

NOT_STATED = "not_stated"


def is_listed(row: Row) -> bool:
    return any(
        (each.paper, each.method) == (row.paper, row.method)
        and row.setting in each.settings
        and (not each.values or row.value in each.values)
        for each in read_deviations(SearchSpaces())
    )


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.paper}-{row.method}-{row.setting}")
def test_stated_setting_is_met_or_a_listed_deviation(row: Row) -> None:
    if NOT_STATED in row.value and row.key not in MET:
        return
    if is_listed(row):
        if row.key in MET and not _has_values(row):
            with pytest.raises(AssertionError):  # else it is no deviation any more
                MET[row.key](row.paper, row.value)
        return
    assert row.key in MET, "neither met nor listed"
    MET[row.key](row.paper, row.value)


def _has_values(row: Row) -> bool:
    return any(
        each.values
        for each in read_deviations(SearchSpaces())
        if (each.paper, each.method) == (row.paper, row.method) and row.setting in each.settings
    )


def test_every_deviation_is_of_a_stated_setting() -> None:
    stated = {row.key for row in rows()}
    listed = [
        (each.paper, each.method, setting)
        for each in read_deviations(SearchSpaces())
        for setting in each.settings
    ]
    assert set(listed) <= stated
    assert len(listed) == len(set(listed))


def test_no_end_token_is_trained_at_the_papers_scale() -> None:
    for name in SearchSpaces().names("ablation"):
        for spec in plan(name).trials:
            if plan(name).config.paper:
                assert spec.protocol["target_ends_with_eos"] is False


def told(*typed: str) -> Sequence[str]:
    made = expand(load(list(typed)))
    return deviation_lines(made.config, {spec.method["name"] for spec in made.trials})


def test_deviations_are_told_of_the_plan_s_own_paper_and_methods_at_its_scale() -> None:
    (line,) = told("ablation=memoe_components", "scale=paper")
    assert line.startswith("not as memoe_v2 states, MEMoE: router_mix: Eq. 14 and 15 as printed")
    assert told("ablation=memoe_components") == []
    lines = told("ablation=lemoe_lifelong", "scale=paper", "backbone=llama2_7b")
    assert [line.split(": ")[1] for line in lines] == [
        *("batch_size_lifelong_T100", "edits_tested"),
        "projection_activation, trainable_at_step_t",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("deviations: [{paper: arm, method: ARM, settings: []}]", r"deviations.yaml: .*settings"),
        (
            "deviations: [{paper: arm, method: ARM, settings: [x], why: y, concerns: [armm]}]",
            r"'armm' is no method",
        ),
    ],
)
def test_deviations_when_the_file_is_wrong_then_one_line(
    tmp_path: Path, text: str, words: str
) -> None:
    shutil.copytree(ROOT / "search_spaces", tmp_path / "spaces")
    (tmp_path / "spaces" / "deviations.yaml").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_deviations(SearchSpaces(tmp_path / "spaces"))
