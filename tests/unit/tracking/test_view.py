"""The view that MLflow's page opens on: its form, what it shows, and that MLflow reads it so."""

from __future__ import annotations

import base64
import json
import re
import zlib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tracking import view
from orchestrator.tracking.view import Seen

FINALS = [f"{name}.token.final" for name in ("average", "reliability", "generality")]
FINALS += [f"locality_{kind}.token.final" for kind in ("far", "near")]
GRID = {"method.lora_rank": ["1", "16", "64"], "method.top_k": ["1", "5"], "seed": ["0"]}
MORE = ["average.exact.final", "reliability.token.before", "reliability.token.curve"]
MORE += ["seconds", "count.excluded", "number.mean_gece_expert_3", "own_expert_rate", "mine"]


def unpacked(tag: str) -> Any:
    """What MLflow's page makes of the tag: without the prefix, base64, inflated, JSON."""
    assert tag.startswith("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(tag.removeprefix("deflate;"))))


def charts(state: dict[str, Any], section: str) -> list[dict[str, Any]]:
    """The charts below a heading, in their order."""
    ids = {each["name"]: each["uuid"] for each in state["compareRunSections"]}
    return [each for each in state["compareRunCharts"] if each["metricSectionId"] == ids[section]]


def test_tag_then_it_is_deflated_json_in_base64_behind_its_prefix() -> None:
    seen = Seen(GRID, FINALS)
    assert view.TAG == "mlflow.sharedViewState.answer"
    assert unpacked(view.tag_of(seen)) == view.state_of(seen)


def test_grid_then_its_axes_stand_against_the_average_of_each_arm() -> None:
    state = view.state_of(Seen(GRID, FINALS))
    parallel, contour, scatter = charts(state, view.ANSWER)
    assert (parallel["type"], parallel["selectedMetrics"]) == ("PARALLEL", [FINALS[0]])
    assert parallel["selectedParams"] == ["method.lora_rank", "method.top_k"]  # what is moved
    assert (contour["type"], contour["xaxis"]["key"]) == ("CONTOUR", "method.lora_rank")
    assert contour["yaxis"] == {"key": "method.top_k", "type": "PARAM"}
    assert contour["zaxis"] == {"key": FINALS[0], "type": "METRIC"}
    assert scatter["xaxis"]["key"] == "locality_far.token.final"
    by_arm = [{"mode": "tag", "groupByData": "arm"}]
    assert state["groupBy"] == {"aggregateFunction": "average", "groupByKeys": by_arm}


def test_named_arms_then_scores_are_the_coordinates_as_words_have_no_mean() -> None:
    axes = {"arm": ["full", "without"], "method.router": ["chunks", "linear"]}
    parallel, scatter = charts(view.state_of(Seen(axes, FINALS)), view.ANSWER)
    assert parallel["selectedParams"] == []
    assert parallel["selectedMetrics"] == [*FINALS[1:4], FINALS[0]]
    assert scatter["type"] == "SCATTER"


def test_words_and_numbers_then_axes_of_several_numbers_stand_before_the_scores() -> None:
    axes = {"method": ["ft_m", "lemoe"], "method.edit_lr": ["1e-3", "1e-2", "0.1"]}
    axes["method.num_experts"] = ["1", "5"]  # by which two arms are told apart
    parallel, *others = charts(view.state_of(Seen(axes, FINALS)), view.ANSWER)
    assert parallel["selectedParams"] == ["method.edit_lr"]
    assert parallel["selectedMetrics"] == [*FINALS[1:4], FINALS[0]]
    assert [each["type"] for each in others] == ["SCATTER"]


def test_scores_then_the_papers_columns_come_first_and_in_its_measure() -> None:
    exact = [name.replace("token", "exact") for name in FINALS]
    seen = Seen(GRID, [*FINALS, *exact], (), "locality_near", "exact")
    state = view.state_of(seen)
    shown = [chart["metricKey"] for chart in charts(state, view.SCORES)]
    assert shown[:4] == [*exact[:3], "locality_near.exact.final"]
    assert shown[4:] == ["locality_far.exact.final"]
    assert [chart["metricKey"] for chart in charts(state, view.OTHERS)] == FINALS
    assert state["selectedColumns"][:4] == [f"metrics.`{name}`" for name in shown[:4]]
    assert state["orderByKey"] == "metrics.`average.exact.final`"


def test_every_metric_has_one_chart_below_a_heading_of_its_kind() -> None:
    state = view.state_of(Seen(GRID, [*FINALS, *MORE]))
    for section, names in {
        view.CURVES: ["reliability.token.curve"],
        view.BEFORE: ["reliability.token.before"],
        view.ROUTING: ["own_expert_rate"],
        view.COST: ["seconds"],
        view.COUNTS: ["count.excluded", "mine", "number.mean_gece_expert_3"],
    }.items():
        assert sorted(chart["metricKey"] for chart in charts(state, section)) == names
    keys = [each["metricKey"] for each in state["compareRunCharts"] if "metricKey" in each]
    assert sorted(keys) == sorted([*FINALS, *MORE])
    names = [each["name"] for each in state["compareRunSections"]]
    assert names == [each for each in view.SECTIONS if each in names]
    opened = [each["name"] for each in state["compareRunSections"] if each["display"]]
    assert opened == [view.ANSWER, view.SCORES, view.CURVES]


def test_no_scores_yet_then_there_is_a_view_all_the_same() -> None:
    state = view.state_of(Seen({"arm": ["a"]}, ["seconds"]))
    assert [each["name"] for each in state["compareRunSections"]] == [view.COST]


def test_thousands_of_arms_and_metrics_then_the_tag_is_as_short_as_mlflow_takes_it() -> None:
    arms = [f"arm {number} {number * 7919 % 1000}" for number in range(3000)]
    metrics = [*FINALS, *(f"number.of_expert_{number * 7919 % 9973}" for number in range(3000))]
    tag = view.tag_of(Seen(GRID, metrics, arms))
    assert len(tag) <= view.MOST
    state = unpacked(tag)
    assert len(charts(state, view.SCORES)) == len(FINALS)  # the first charts are kept


def bundle() -> str:
    """All of the installed MLflow's page that may hold what is looked for."""
    package = find_spec("mlflow")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = (
        Path(package.submodule_search_locations[0]) / "server" / "js" / "build" / "static" / "js"
    )
    texts = [path.read_text("utf-8", "replace") for path in sorted(folder.glob("*.js"))]
    return "\n".join(text for text in texts if "compareRunCharts" in text or "sharedView" in text)


@pytest.mark.skipif(version("mlflow") != view.TESTED, reason=f"not MLflow {view.TESTED}")
def test_mlflows_own_page_reads_every_name_of_the_state() -> None:
    code = bundle()
    assert f'="{view.TAG.removesuffix(view.KEY)}"' in code
    assert '="viewStateShareKey"' in code
    # The two lists of what is picked from a shared state.
    [facets] = re.findall(r'=(\["searchFilter",[^\]]*\])', code)[:1]
    [kept] = re.findall(r'=(\["selectedColumns",[^\]]*"compareRunCharts"[^\]]*\])', code)[:1]
    state = view.state_of(Seen(GRID, [*FINALS, *MORE]))
    assert set(state) <= {*json.loads(facets), *json.loads(kept)}
    for chart in state["compareRunCharts"]:
        assert f'.{chart["type"]}="{chart["type"]}"' in code
        # Fields as the classes of charts set them, or as charts are drawn from them.
        for field in chart:
            assert re.search(rf"this\.{field}=|\.{field}\b", code), field
    for section in state["compareRunSections"]:
        for field in section:
            assert re.search(rf"\b{field}:|\.{field}\b", code), field
    assert 'SHOWALL="SHOW_ALL"' in code
    assert '.Tag="tag"' in code
    assert '.Average="average"' in code
