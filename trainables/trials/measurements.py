"""Keeps what a trial has measured so far, and makes its last row of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any, Protocol, runtime_checkable

import torch

from trainables.ability.answers import Answered, answered_from, answered_json, numbers
from trainables.edits.stream import EditStream
from trainables.interfaces import EditMethod, EditRecord, EditReport, Json, State
from trainables.metrics.evaluator import MEASURES, ProbeScore, aggregate, aggregate_perplexity
from trainables.metrics.prompt_routes import (
    Experts,
    RouteRow,
    learned,
    num_experts_used,
    route_numbers,
    routing_matrices,
    same_expert_rate,
)
from trainables.metrics.scores import retention, stale_rate
from trainables.metrics.wrong_answers import WrongAnswer


@dataclass(frozen=True)
class CurvePoint:
    """Reliability of one batch of edits, measured after a later one."""

    edits_seen: int  # edits applied by then
    batch: int  # of the edits that are scored, counted from 0
    num_records: int
    token: float
    exact: float


@dataclass
class Measurements:
    """Scores, reports and routes of one trial; as JSON between two processes.

    Attributes:
        immediate: Scores of each batch, taken right after it.
        final: Scores of what holds at the end; empty where batches are rolled back.
        outdated: Scores of the older answers of a serial stream, at the end.
        curve: Scores of earlier batches after later ones.
        reports: What each batch took.
        routes: Where prompts were sent in the end.
        trained: Experts of each edit right after its batch, by record.
        state_bytes: What a method adds to the backbone, per roll-back or at the end.
        ability: Answers to tasks that no edit is about, per roll-back or at the end.
        seconds: Wall time by purpose.
    """

    immediate: list[ProbeScore] = field(default_factory=list)
    final: list[ProbeScore] = field(default_factory=list)
    outdated: list[ProbeScore] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    reports: list[EditReport] = field(default_factory=list)
    routes: list[RouteRow] = field(default_factory=list)
    trained: dict[int, Experts] = field(default_factory=dict)
    state_bytes: list[int] = field(default_factory=list)
    ability: list[Answered] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"edit": 0.0, "evaluation": 0.0})

    def values(self) -> dict[str, Json]:
        """Everything as JSON."""
        return {
            "immediate": [asdict(score) for score in self.immediate],
            "final": [asdict(score) for score in self.final],
            "outdated": [asdict(score) for score in self.outdated],
            "curve": [asdict(point) for point in self.curve],
            "reports": [
                {**asdict(report), "counts": dict(report.counts), "numbers": dict(report.numbers)}
                for report in self.reports
            ],
            "routes": [asdict(row) for row in self.routes],
            "trained": [[record, list(experts)] for record, experts in self.trained.items()],
            "state_bytes": list[Json](self.state_bytes),
            "ability": [answered_json(each) for each in self.ability],
            "seconds": dict[str, Json](self.seconds),
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Measurements:
        """The measurements that `values` wrote."""
        return cls(
            immediate=[_probe_score(score) for score in values["immediate"]],
            final=[_probe_score(score) for score in values["final"]],
            outdated=[_probe_score(score) for score in values["outdated"]],
            curve=[CurvePoint(**point) for point in values["curve"]],
            reports=[EditReport(**report) for report in values["reports"]],
            routes=[_route_row(row) for row in values["routes"]],
            trained={int(record): tuple(experts) for record, experts in values["trained"]},
            state_bytes=list(values["state_bytes"]),
            ability=[answered_from(each) for each in values.get("ability", ())],
            seconds=dict(values["seconds"]),
        )

    def row(
        self, stream: EditStream, before: Sequence[ProbeScore], *, is_rolled_back: bool
    ) -> dict[str, float]:
        """Every number of the trial's last row but progress.

        Args:
            stream: What was edited.
            before: Scores of the pristine backbone on the same probes.
            is_rolled_back: The end of each batch is its final moment.
        """
        final = self.immediate if is_rolled_back else self.final
        row: dict[str, float] = dict(stream.numbers)
        moments = {"before": before, "immediate": self.immediate, "final": final}
        for moment, scores in moments.items():
            found = aggregate(scores, MEASURES) | aggregate_perplexity(scores)
            row.update({f"{name}.{moment}": value for name, value in found.items()})
        if not is_rolled_back and len(stream.batches) > 1:
            row |= _retention(stream, final)
        if self.outdated:
            row["stale_rate"] = self._stale_rate(stream)
        row |= self._routing(stream)
        row["num_steps"] = float(sum(report.num_steps for report in self.reports))
        row |= self._reported()
        if self.state_bytes:
            row["edit_state_bytes"] = mean(self.state_bytes)
        row |= numbers(self.ability)
        row |= {f"{name}_seconds": value for name, value in self.seconds.items()}
        return row

    def curve_rows(self) -> list[dict[str, float]]:
        """`reliability.<measure>.curve` over all edits so far, for each number of edits seen."""
        by_moment: dict[int, list[CurvePoint]] = {}
        for point in self.curve:
            by_moment.setdefault(point.edits_seen, []).append(point)
        rows = []
        for edits_seen, points in by_moment.items():
            num_records = sum(point.num_records for point in points)
            row = {"edits_seen": float(edits_seen)}
            for measure in ("token", "exact"):
                total = sum(getattr(point, measure) * point.num_records for point in points)
                row[f"reliability.{measure}.curve"] = total / num_records
            rows.append(row)
        return rows

    def lines(
        self, stream: EditStream, records: Sequence[EditRecord], *, is_rolled_back: bool
    ) -> Iterator[dict[str, Any]]:
        """One JSON object per probe and moment, then the curve and the routing matrices.

        `batch` counts from 0; `frequency` stands where it is known. Lines of the final moment bear
        the experts of the prompt's tokens, those of edits also the experts that learned them, and
        where an edit or a rephrase is answered wrongly, what the answer was: `wrong`.
        Points of the curve bear `edits_seen` and the moment `curve`; lines of the moment `routing`
        the matrix of `routing_matrix`, those of `ability` an answer as `Answered.lines` has it.
        """
        batch_of = {record: n for n, batch in enumerate(stream.batches) for record in batch}
        routes = {(row.record, row.score, row.prompt): row for row in self.routes}
        moments = {"final": self.immediate}
        if not is_rolled_back:
            moments = {"immediate": self.immediate, "final": self.final, "outdated": self.outdated}
        for moment, scores in moments.items():
            for score in scores:
                route = routes.get((score.record, score.score, score.prompt))
                line = _line(score, records[score.record], route if moment == "final" else None)
                line |= {"when": moment, "batch": batch_of[score.record]}
                if "experts" in line and score.score == "reliability":
                    line["trained_experts"] = self.trained.get(score.record)
                yield line
        for point in self.curve:
            yield {**asdict(point), "score": "reliability", "when": "curve"}
        for matrix in routing_matrices(learned(self.routes, self.trained)):
            yield {**matrix, "when": "routing"}
        for answered in self.ability:
            yield from answered.lines()

    def _stale_rate(self, stream: EditStream) -> float:
        questions = [stream.question(score.record) for score in self.outdated]
        return stale_rate([score.exact for score in self.outdated], questions)

    def _routing(self, stream: EditStream) -> dict[str, float]:
        if not self.routes:
            return {}
        groups = stream.groups() if stream.groups else [0] * len(stream.order)
        row = route_numbers(learned(self.routes, self.trained), groups)
        used = num_experts_used(self.trained, {route.record: route.part for route in self.routes})
        if used is not None:
            row["num_experts_used"] = used
        repeated = [
            (stream.question(record), self.trained[record])
            for record in stream.order
            if record in self.trained
        ]
        same = same_expert_rate(repeated)
        return row if same is None else {**row, "same_expert_rate": same}

    def _reported(self) -> dict[str, float]:
        """Sums of the counts and means of the numbers that the batches reported."""
        row: dict[str, float] = {}
        numbers: dict[str, list[float]] = {}
        for report in self.reports:
            for name, count in report.counts.items():
                row[f"count.{name}"] = row.get(f"count.{name}", 0.0) + count
            for name, value in report.numbers.items():
                numbers.setdefault(name, []).append(value)
        return row | {f"number.{name}": mean(values) for name, values in numbers.items()}


@runtime_checkable
class Compact(Protocol):
    """A method that needs fewer bytes to answer than to go on editing."""

    def inference_bytes(self) -> int:
        """Bytes of what it adds to the backbone to answer as it does now."""
        ...


def edit_bytes(method: EditMethod) -> int:
    """Bytes of what a method adds to the backbone: its state, or less where it is `Compact`."""
    if isinstance(method, Compact):
        return method.inference_bytes()
    return edit_state_bytes(method.state())


def edit_state_bytes(state: State) -> int:
    """Bytes of all tensors of a method's state.

    Not counted is what random generators hold, and what belongs to edits that were learned side by
    side (`apart`): of these, one is in use.
    """
    return sum(
        tensor.nbytes
        for name, tensor in state.tensors.items()
        if not name.startswith("apart/") and not name.rpartition("/")[2].startswith("generator")
    )


def _retention(stream: EditStream, final: Sequence[ProbeScore]) -> dict[str, float]:
    """`retention.<measure>.final`, of the edits that are older than the last batch."""
    edits = [score for score in final if score.score == "reliability"]
    batch_of = {record: n for n, batch in enumerate(stream.batches) for record in batch}
    batches = torch.tensor([batch_of[score.record] for score in edits])
    found = {}
    for measure in MEASURES:
        values = [getattr(score, measure) for score in edits]
        if None in values:
            continue  # nothing was generated
        kept = retention(torch.tensor(values, dtype=torch.float64), batches)
        if kept is not None:
            found[f"retention.{measure}.final"] = kept
    return found


def _line(score: ProbeScore, record: EditRecord, route: RouteRow | None) -> dict[str, Any]:
    """All that is known of one probe; unknown values are left out."""
    line = asdict(score)
    del line["record"]
    line |= {"record_id": record.record_id, "subject": record.subject}
    if record.frequency is not None:
        line["frequency"] = record.frequency
    for name in ("perplexity", "wrong"):
        if line[name] is None:
            del line[name]
    if route is not None:
        line["experts"] = route.experts
    return line


def _probe_score(values: Mapping[str, Any]) -> ProbeScore:
    wrong = values.get("wrong")  # not in a state that an earlier version wrote
    return ProbeScore(
        **{**values, "wrong": None if wrong is None else WrongAnswer.from_values(wrong)}
    )


def _route_row(values: Mapping[str, Any]) -> RouteRow:
    trained = values["trained"]
    return RouteRow(
        **{
            **values,
            "experts": tuple(values["experts"]),
            "trained": None if trained is None else tuple(trained),
        }
    )
