"""Says what MLflow's page of an experiment opens on: few charts that show the answer; pure.

MLflow keeps a view that can be linked as a tag of the experiment, `mlflow.sharedViewState.<key>`:
the state of its page as JSON, deflated, in base64. Its page reads the tag of which the address
names the key. The form is MLflow's own and not documented: it is that of the version `TESTED`, and
a link to any other version names no view.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.settings.metrics import Declaration, declarations

TESTED = "3.17.2"  # of MLflow, whose page was seen to open these views
KEY = "answer"
SUMMARY = "summary"  # name of the run that is no trial and is not charted
TAG = f"mlflow.sharedViewState.{KEY}"
_PREFIX = "deflate;"
MOST = 20_000  # characters of an experiment's tag that this MLflow takes
MOST_AXES = 8  # of the parallel coordinates
MOST_BARS = 24
_LEAST_VALUES = 3  # of an axis of numbers among words: it says more than an arm's name
_MOMENTS = ("before", "immediate", "rung", "final", "curve")
_COSTS = ("seconds", "bytes", "gib")
# Headings of the page, in their order; the first three are open.
ANSWER, SCORES, CURVES = "The answer", "Scores at the end", "While edits are made"
OTHERS, IMMEDIATE, BEFORE = "Scores in other measures", "Right after each batch", "Before editing"
ROUTING, COST, COUNTS = "Routing and other results", "Cost", "Counts and what methods report"
SECTIONS = (ANSWER, SCORES, CURVES, OTHERS, IMMEDIATE, BEFORE, ROUTING, COST, COUNTS)
_WIDTH = 150  # of a column, pixels
_OPEN = (ANSWER, SCORES, CURVES)
# Charts beside each other and their height in pixels, else three of 360.
_SIZES: Mapping[str, Mapping[str, int]] = {
    ANSWER: {"columns": 2, "cardHeight": 330},
    SCORES: {"columns": 4, "cardHeight": 280},
}


@dataclass(frozen=True)
class Seen:
    """What the runs of an experiment hold.

    Attributes:
        axes: The swept keys, each with its values.
        metrics: Names of all metrics.
        arms: Names of all arms; their runs are folded below them.
        locality: The published one of the data set, such as `locality_far`.
        measure: What the tables count: token, exact, ...
    """

    axes: Mapping[str, Sequence[str]]
    metrics: Sequence[str]
    arms: Sequence[str] = ()
    locality: str = "locality_far"
    measure: str = "token"

    @property
    def moved(self) -> list[str]:
        """The axes with several values; the arms' names only where nothing else moves."""
        found = [key for key, values in self.axes.items() if len(set(values)) > 1]
        return [key for key in found if key != "arm"] or found

    @property
    def numeric(self) -> list[str]:
        """Those of `moved` whose values are all numbers."""
        return [key for key in self.moved if all(map(_is_number, self.axes[key]))]


@dataclass(frozen=True)
class _Named:
    """A metric's name in its parts."""

    declaration: Declaration | None
    score: str
    measure: str
    moment: str


def tag_of(seen: Seen, most: int = MOST) -> str:
    """The value of the tag `TAG`.

    Where it would be too long, groups stand open, and then the last charts of all are left to the
    page, which adds those that it lacks below a heading of its own.
    """
    state = state_of(seen)
    text = _packed(state)
    if len(text) > most:
        text = _packed(state | {"groupsExpanded": {}})
    while len(text) > most and len(charts := state["compareRunCharts"]) > 1:
        state |= {"groupsExpanded": {}, "compareRunCharts": charts[: len(charts) * 9 // 10]}
        text = _packed(state)
    return text


def _packed(state: Mapping[str, Any]) -> str:
    text = json.dumps(state, separators=(",", ":"))
    return _PREFIX + base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def state_of(seen: Seen) -> dict[str, Any]:
    """The state of MLflow's page, by the names that its JavaScript reads.

    Every metric has a chart, because the page would add those that have none.
    """
    metrics = sorted(seen.metrics, key=lambda name: _order(name, seen))
    ids = {section: f"section-{number}" for number, section in enumerate(SECTIONS, start=1)}
    charts = [{**chart, "metricSectionId": ids[ANSWER]} for chart in _answer(seen)]
    for name in metrics:
        section = _section(name, seen)
        charts.append({**_of_metric(name), "metricSectionId": ids[section]})
    for number, chart in enumerate(charts, start=1):
        chart["uuid"] = f"chart-{number}"
    used = {chart["metricSectionId"] for chart in charts}
    main = _main(seen)
    columns = [
        *(f"metrics.`{name}`" for name in main),
        *(f"params.`{key}`" for key in seen.moved),
        "tags.`seed`",
        "tags.`status`",
    ]
    return {
        # Of a group without params, the page draws no parallel coordinates, of no group at all.
        "searchFilter": f"attributes.run_name != '{SUMMARY}'",
        "orderByKey": f"metrics.`{main[0]}`" if main else "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,  # else alphabetical, behind the dates
        "columnWidths": dict.fromkeys(columns, _WIDTH),
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": "arm"}],
        },
        "groupsExpanded": {f"tag.arm.{arm}": False for arm in seen.arms},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "isAccordionReordered": True,  # else the page puts sections into alphabetical order
        "compareRunCharts": charts,
        "compareRunSections": [
            {
                "uuid": ids[section],
                "name": section,
                "display": section in _OPEN,
                "isReordered": True,  # else the page puts charts into alphabetical order
                "deleted": False,
                "isGenerated": False,
                **_SIZES.get(section, {}),
            }
            for section in SECTIONS
            if ids[section] in used
        ],
    }


def _answer(seen: Seen) -> list[dict[str, Any]]:
    """Parallel coordinates, two axes against the average, and what an edit gains against its cost.

    Of a group of runs the page averages what was swept, so that of words nothing is left: where
    there are any, the scores stand in their place.
    """
    main, axes = _main(seen), seen.numeric
    if not main:
        return []
    scores = [main[0]]
    if axes != seen.moved:
        axes = [key for key in axes if len(set(seen.axes[key])) >= _LEAST_VALUES]
        scores = [*main[1:], main[0]]
    found: list[dict[str, Any]] = [
        {
            **_card("PARALLEL"),
            "selectedParams": axes[:MOST_AXES],
            "selectedMetrics": scores,
            "showAllRuns": False,
        }
    ]
    widest = sorted(axes, key=lambda key: -len(set(seen.axes[key])))[:2]
    if len(widest) == 2:
        found.append(
            {
                **_card("CONTOUR"),
                "xaxis": {"key": widest[0], "type": "PARAM"},
                "yaxis": {"key": widest[1], "type": "PARAM"},
                "zaxis": {"key": main[0], "type": "METRIC"},
            }
        )
    if len(main) > 2:
        found.append(
            {
                **_card("SCATTER"),
                "runsCountToCompare": 100,
                "xaxis": {"key": main[-1], "type": "METRIC"},
                "yaxis": {"key": main[1], "type": "METRIC"},
            }
        )
    return found


def _of_metric(name: str) -> dict[str, Any]:
    if _parts(name).moment not in ("rung", "curve"):
        return {**_card("BAR"), "metricKey": name, "displayName": name}
    return {
        **_card("LINE"),
        "metricKey": name,
        "displayName": name,
        "selectedMetricKeys": [name],
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _card(kind: str) -> dict[str, Any]:
    shared = {"deleted": False, "isGenerated": False, "runsCountToCompare": MOST_BARS}
    return {"uuid": "", "type": kind, "metricSectionId": "", **shared}


def _main(seen: Seen) -> list[str]:
    """The columns of a published table that the runs have, the average first."""
    names = ("average", "reliability", "generality", seen.locality)
    found = [f"{name}.{seen.measure}.final" for name in names]
    return [name for name in found if name in seen.metrics]


def _section(name: str, seen: Seen) -> str:
    """The heading below which a metric stands."""
    told = _parts(name)
    if told.moment == "final":
        return SCORES if told.measure in ("", seen.measure) else OTHERS
    moments = {"rung": CURVES, "curve": CURVES, "immediate": IMMEDIATE, "before": BEFORE}
    if told.moment in moments:
        return moments[told.moment]
    if told.declaration is None or told.score.endswith(".*"):
        return COUNTS
    return COST if told.declaration.kind in _COSTS else ROUTING


def _order(name: str, seen: Seen) -> tuple[int, int, str]:
    """Sort key of a metric: by section, a published table's columns first, then as declared."""
    main, known, told = _main(seen), list(declarations()), _parts(name)
    place = known.index(told.score) if told.score in known else len(known)
    first = main.index(name) - len(main) if name in main else place
    return SECTIONS.index(_section(name, seen)), first, name


def _parts(name: str) -> _Named:
    """A metric's name in its parts, by its declaration."""
    known, words = declarations(), name.split(".")
    for count in range(len(words), 0, -1):
        score = ".".join(words[:count])
        if score in known:
            rest = words[count:]
            moment = rest[-1] if rest and rest[-1] in _MOMENTS else ""
            measure = rest[0] if rest and known[score].per == "prompts" else ""
            return _Named(known[score], score, measure, moment)
    several = f"{words[0]}.*"
    return _Named(known.get(several), several, "", "")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
