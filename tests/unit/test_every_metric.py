"""Every metric of `search_spaces/metrics.yaml`, found by itself, from the trial to the table.

It is computed by somebody, reaches MLflow, is an arm's score or count there, has its column in an
ablation's table, and may be compared the right way round. What a trial measures and nobody
declares fails here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import aggregate, metrics
from analysis.errors import AnalysisError
from analysis.layouts import generic
from analysis.metrics import MEASURES, METRICS, Metric
from analysis.reading.runs import read_runs
from orchestrator.errors import UsageError
from orchestrator.planning.cell import Cell, Resolved
from orchestrator.planning.plan import expand
from orchestrator.settings import metrics as settings_metrics
from orchestrator.settings.loading import load
from orchestrator.settings.metrics import compared as named
from orchestrator.settings.yaml_files import SearchSpaces
from orchestrator.store.rows import end_row, labelled
from orchestrator.tracking.points import _NOT_METRICS as BOOKKEEPING
from orchestrator.tracking.tracker import Tracker
from tests.unit.file_trials import spec, write, zsre_line
from tests.unit.trials.test_loop import RECORDS, make_loop
from trainables.ability.abilities import abilities
from trainables.ability.definitions import defined
from trainables.artefacts import Artefacts
from trainables.backbones.loading import load_backbone
from trainables.bases import read_method
from trainables.interfaces import Question
from trainables.methods import method_settings
from trainables.metrics import evaluator
from trainables.settings_check import OF_REPEATED_EDITS, OF_ROUTES
from trainables.spec import DatasetSpec, EvaluateSpec
from trainables.trials.compared import Compares, compared
from trainables.trials.ray_trial import EditTrial
from trainables.trials.run import Runtime

TINY = {"edit_layer": 2, "num_experts": 2, "top_k": 1, "num_steps": 2}
# Measured where a test of every machine cannot go; test_trial has the second.
_KNOWS = "needs a backbone that knows something; test_known_only has both"
ELSEWHERE = {
    "peak_gpu_gib": "needs a GPU",
    "micro_batch": "memory has to run out",
    "known_facts": _KNOWS,
    "facts_asked": _KNOWS,
}
_HARNESS = "needs lm-evaluation-harness; test_harness has what any of its tasks tells"
ELSEWHERE |= {
    f"ability.{name}": _HARNESS for name, task in defined().items() if task.reads == "files"
}
KINDS = ("locality_far", "locality_near", "locality_same", "portability")
ZSRE = DatasetSpec("zsre", "report")  # whose published locality is the far one


AT_RUNGS = Compares(
    "all of them",
    tuple(
        name if metric.per == "checkpoint" else f"{name}.token"
        for name, metric in METRICS.items()
        if "rung" in metric.moments
    ),
)


def logged_names(metric: Metric) -> set[str]:
    """Under which names MLflow may have it."""
    if metric.per == "trial":
        return {metric.name}
    measures = [f".{measure}" for measure in MEASURES] if metric.per == "prompts" else [""]
    return {f"{metric.name}{m}.{moment}" for m in measures for moment in metric.moments}


def undeclared(row: Mapping[str, Any]) -> list[str]:
    """Numbers of a row that no line of the file declares."""
    numbers = {key for key, value in row.items() if isinstance(value, int | float)} - BOOKKEEPING
    known = set().union(*map(logged_names, METRICS.values()))
    families = tuple(name.removesuffix("*") for name in METRICS if name.endswith("*"))
    return sorted(name for name in numbers - known if not name.startswith(families))


def trial_row(folder: Path, method: str, backbone: Path, **protocol: Any) -> dict[str, Any]:
    """The last row of a trial that routes, as its actor hands it to the driver."""
    folder.mkdir()
    wanted = spec(
        backbone, "zsre", write(folder / "z.jsonl", [zsre_line(n) for n in range(60)]), **protocol
    )
    values = read_method(method)
    settings = method_settings(values)
    settings |= {key: value for key, value in TINY.items() if key in settings}
    wanted["method"] = settings | {"name": values["name"], "module": values.get("module", method)}

    class Planned(EditTrial):
        def setup(self, config: dict[str, Any]) -> None:
            runtime = Runtime(cache=folder / "cache", store=folder / "store")
            super().setup(config, {"trial": wanted}, runtime)

    trial = Planned({"trial_key": "trial"})
    row: dict[str, Any] = json.loads(trial.step()["row"])
    trial.cleanup()
    assert row["status"] == "finished", row["traceback"]
    return row


@pytest.fixture(scope="module")
def rows(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path]
) -> list[dict[str, Any]]:
    """Last rows of a stream, a serial stream, and passages with every kind of question."""
    folder, llama = tmp_path_factory.mktemp("trials"), checkpoints["llama"]
    stream = {"num_edits": 4, "edit_batch_size": 2, "generate": True, "curve": True}
    serial = {"kind": "serial", "num_edits": 4, "num_questions": 2, "answers_per_question": 2}
    asked = tuple(Question("Who wrote The Long Tide?", "Ivo Marsh", kind) for kind in KINDS)
    records = tuple(replace(r, locality=asked[:3], portability=asked[3:]) for r in RECORDS)
    loop = make_loop(
        load_backbone(llama),
        folder,
        [[0, 1], [2]],
        is_rolled_back=False,
        num_steps=2,
        records=records,
        abilities=abilities(
            EvaluateSpec(("world_text", "reserved_facts"), 4),
            load_backbone(llama),
            Artefacts(folder / "artefacts"),
        ),
        has_passages=True,
    )
    rung = loop.run(0.5, AT_RUNGS)
    return [
        trial_row(folder / "stream", "conventional_moe", llama, **stream),
        trial_row(folder / "serial", "arm", llama, **serial),
        rung,
        loop.run() | {"status": "finished"},
    ]


@pytest.fixture(scope="module")
def produced(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Every number that the trials told, by its name."""
    told = [*rows, *(point for row in rows for point in row.get("curve", ()))]
    return {k: v for row in told for k, v in row.items() if isinstance(v, int | float)}


@pytest.fixture(scope="module")
def section(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> aggregate.Section:
    """One run with the numbers of all trials, through ledger row and MLflow, as a table has it."""
    store = tmp_path_factory.mktemp("store")
    shutil.copy(empty_database, store / "mlflow.db")
    config = load(["ablation=smoke"])
    cell = Cell("f1", expand(config).trials[0], Resolved("backbone", "data", 1))
    whole = {key: value for row in rows for key, value in row.items()}
    checkpoints = [row for row in rows if row["progress"] < 1]
    end = end_row(cell, whole, stop_reason=None, checkpoints=checkpoints, provenance={})
    tracker = Tracker(store, config.ablation)
    tracker.log(labelled(end, cell.spec, config))
    tracker.close()
    assert tracker.failures == []
    (found,) = aggregate.sections(read_runs([store], config.ablation))
    return found


def test_what_trials_measure_is_declared(rows: list[dict[str, Any]]) -> None:
    told = [*rows, *(point for row in rows for point in row.get("curve", ()))]
    assert {name for row in told for name in undeclared(row)} == set()
    assert undeclared({"toy_rate": 0.5, "reliability.token.twice": 1.0}) == [
        *("reliability.token.twice", "toy_rate")
    ]


def test_measures_are_those_that_are_computed() -> None:
    assert set(MEASURES) == set(evaluator.MEASURES)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_measured_at_each_of_its_moments(
    name: str, produced: Mapping[str, float]
) -> None:
    metric = METRICS[name]
    if name in ELSEWHERE or metric.mean_of or metric.one_of:
        return
    if name.endswith("*"):
        assert any(told.startswith(name.removesuffix("*")) for told in produced)
    elif metric.per == "trial":
        assert name in produced
    else:
        measured = logged_names(metric) & set(produced)
        assert {told.rpartition(".")[2] for told in measured} == set(metric.moments)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_comes_through_mlflow_and_into_the_table_of_an_ablation(
    name: str, section: aggregate.Section, produced: Mapping[str, float]
) -> None:
    metric = METRICS[name]
    (arm,) = section.arms
    if name in ELSEWHERE or name == "locality_far":  # that of the data set: called `locality`
        return
    if name == "count.*":
        assert arm.counts
        return
    shown = [told for told in arm.scores if told == name or told.startswith(name.rstrip("*"))]
    assert shown
    if metric.per == "trial" and name in produced:
        assert arm.scores[name].mean == produced[name]
    if metric.has_column:
        body = generic.arrange(section, (), False)
        assert body.scores[name] == metric.heading
        (entry,) = [
            entry
            for key, entry in zip(body.scores, body.rows[0].entries, strict=True)
            if key == name
        ]
        assert entry.ours == arm.scores[name]
        assert body.digits[name] == metric.digits


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].better])
def test_every_metric_with_a_better_end_may_be_compared_that_way(
    name: str, produced: Mapping[str, float]
) -> None:
    typed = f"{name}.token" if METRICS[name].per == "prompts" else name
    chosen = load(
        ["ablation=lemoe_search", "scheduler=fifo", f"scheduler.metric={typed}"]
    ).scheduler
    assert chosen.compared.mode == ("max" if METRICS[name].better == "higher" else "min")
    what = Compares(typed, chosen.compared.numbers).on(ZSRE)
    assert what.numbers == chosen.compared.on({"locality": "far"}) == chosen.compared.on({})
    parts = [produced.get(f"{part}.final", produced.get(part)) for part in what.numbers]
    assert None not in parts
    assert compared(produced, what, "final") == pytest.approx(sum(parts) / len(parts))  # type: ignore[arg-type]
    if chosen.compared.has_rungs:
        assert {f"{part}.rung" for part in what.numbers} <= set(produced)


@pytest.mark.parametrize("name", [name for name in METRICS if not METRICS[name].better])
def test_every_metric_without_a_better_end_is_compared_by_nobody(name: str) -> None:
    with pytest.raises(ValueError, match=r"write SCORE.MEASURE, SCORE one of average, reliability"):
        named(name)


def test_metric_when_measured_at_the_end_alone_then_no_scheduler_with_rungs_takes_it() -> None:
    with pytest.raises(UsageError, match=r"scheduler.metric=stale_rate: it is measured at the end"):
        load(["ablation=lemoe_search", "scheduler=asha", "scheduler.metric=stale_rate"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{kind: share}", r"metrics\.toy=.* per: field required"),
        ("{per: trail}", r"metrics\.toy\.per=trail"),
        ("{per: trial, better: best}", r"metrics\.toy\.better=best"),
        ("{per: trial, mean_of: [x]}", r"toy\.mean_of: 'x' is none of the metrics"),
        ("5", r"metrics\.toy=5: must be a mapping"),
    ],
)
def test_compared_when_a_line_is_broken_then_the_error_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, said: str
) -> None:
    file = tmp_path / "metrics.yaml"
    file.write_text(f"measures_at_rungs: [token]\nmetrics:\n  toy: {line}\n")
    content = SearchSpaces.read(file)
    monkeypatch.setattr(SearchSpaces, "metrics", lambda self: content)
    settings_metrics._declared.cache_clear()
    settings_metrics._known.cache_clear()
    try:
        with pytest.raises(UsageError, match=rf"metrics\.yaml: .*{said}"):
            named("toy")
    finally:
        settings_metrics._declared.cache_clear()
        settings_metrics._known.cache_clear()


def test_numbers_of_routes_are_those_that_a_trial_has(rows: list[dict[str, Any]]) -> None:
    """What `SettingsCheck` refuses of a method without routes is what one with routes measures."""
    routed = {name for name in rows[1] if name in METRICS} & OF_ROUTES
    assert routed == OF_ROUTES
    assert {name for name in METRICS if "expert" in name or "routing" in name} <= OF_ROUTES
    assert set(rows[1]) >= OF_REPEATED_EDITS
    assert not OF_REPEATED_EDITS & set(rows[0])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{heading: Toy, pre: trial}", "metrics.toy.pre is none of name, heading"),
        ("{heading: Toy, kind: share, per: trail}", "metrics.toy.per is 'trail': .* 'prompts'"),
        ("{heading: Toy, per: trial}", "metrics.toy.kind is missing"),
        ("{heading: 5, kind: share, per: trial}", "metrics.toy.heading is 5: .* string"),
        ("{heading: T, kind: share, per: trial, mean_of: [x]}", "toy.mean_of: 'x' is none of"),
        ("{heading: T, kind: share, per: trial, moments: [last]}", "toy.moments.0 is 'last'"),
        ("{heading: T, kind: share, per: trial, digits: two}", "toy.digits is 'two'"),
        ("", "metrics.toy is None; it must be a mapping"),
    ],
)
def test_read_metrics_when_a_line_is_broken_then_the_error_names_it(
    tmp_path: Path, line: str, said: str
) -> None:
    file = tmp_path / "metrics.yaml"
    file.write_text(f"measures: [token]\nmetrics:\n  toy: {line}\n")
    with pytest.raises(
        AnalysisError, match=f"metrics.yaml does not declare metrics as it should: .*{said}"
    ):
        metrics.read_metrics(file)
