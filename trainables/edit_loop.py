"""Order -> edit -> evaluate, pausing at checkpoints; no Ray.

One loop serves all protocols. `single` and `batch` roll the backbone back after each batch and
average over batches; `lifelong` rolls nothing back. Progress is the share of the work done:
batches, and optimiser steps within the batch under way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from trainables.interfaces import Edit, EditMethod, EditRecord, EditReport, PromptBatch, State
from trainables.metrics.evaluator import Evaluator, ProbeScore, aggregate
from trainables.metrics.scores import own_expert_rate
from trainables.prompts import edit_batch

MetricRow = dict[str, float]
AVERAGED = ("reliability", "generality", "locality_far")
CHUNK_STEPS = 10  # optimiser steps between two chances to save


@runtime_checkable
class Routed(Protocol):
    """A method that sends each prompt to an expert."""

    def routes(self, prompts: PromptBatch) -> Tensor:
        """Expert that answers each prompt at inference, (B,)."""
        ...

    def trained_routes(self) -> Sequence[int]:
        """Expert that each edit so far was trained into, in the order of the edits."""
        ...


def compared(row: MetricRow, rung_score: str, moment: str) -> float:
    """The number of a row that a scheduler compares; `moment` is rung or final."""
    name, measure = rung_score.split(".")
    wanted = AVERAGED if name == "average" else (name,)
    return sum(row[f"{score}.{measure}.{moment}"] for score in wanted) / len(wanted)


@dataclass(frozen=True)
class EditProtocol:
    """How the edits are applied and scored.

    Attributes:
        is_rolled_back: True for single and batch editing.
        target_ends_with_eos: The end token closes every target while editing.
        generates: Also score free greedy generation at the final checkpoint.
    """

    is_rolled_back: bool
    target_ends_with_eos: bool
    generates: bool = False


@dataclass(frozen=True)
class Before:
    """What the pristine backbone answers to every probe, by probe index."""

    answers: dict[int, tuple[int, ...]]
    texts: dict[int, str] | None = None


class EditLoop:
    """One trial: applies `batches` of `records` with a method and scores them."""

    def __init__(
        self,
        make_method: Callable[[], EditMethod],
        tokenizer: Any,
        evaluator: Evaluator,
        batches: Sequence[Sequence[int]],
        protocol: EditProtocol,
        before: Before,
        *,
        device: torch.device | str = "cpu",
        to_edit: Callable[[EditRecord], Edit],
    ) -> None:
        """Prepare a trial; nothing is edited yet.

        Args:
            make_method: Builds a prepared method on the pristine backbone.
            tokenizer: Of the backbone.
            evaluator: Of the records that the batches index.
            batches: Record indices, in the order in which they are edited.
            protocol: Roll-back, end token, generation.
            before: What the pristine backbone answers.
            device: Where token rows go.
            to_edit: What a method may see of a record.
        """
        self._make_method = make_method
        self._tokenizer = tokenizer
        self._evaluator = evaluator
        self._batches = [list(batch) for batch in batches]
        self._protocol = protocol
        self._before = before
        self._device = device
        self._to_edit = to_edit
        self.method = make_method()
        self._batches_done = 0
        self._steps_in_batch = 0
        self._is_inside = False
        self._immediate: list[ProbeScore] = []
        self._final: list[ProbeScore] = []
        self._reports: list[EditReport] = []
        self._routes: list[tuple[int, int]] = []  # of each edit: trained into, sent to
        self._seconds = {"edit": 0.0, "evaluation": 0.0}

    @property
    def progress(self) -> float:
        """Share of the trial's work that is done, in [0, 1]."""
        inside = self._steps_in_batch / max(self.method.num_steps, 1) if self._is_inside else 0.0
        return (self._batches_done + min(inside, 1.0)) / len(self._batches)

    @property
    def num_batches(self) -> int:
        """Batches of edits in this trial."""
        return len(self._batches)

    @property
    def records(self) -> tuple[EditRecord, ...]:
        """The records that the trial edits."""
        return self._evaluator.records

    @property
    def edits_seen(self) -> int:
        """Edits applied so far, those of the batch under way included."""
        done = self._batches_done + (1 if self._is_inside else 0)
        return sum(len(batch) for batch in self._batches[:done])

    def run(
        self,
        until: float = 1.0,
        rung_score: str | None = None,
        after_chunk: Callable[[], None] = lambda: None,
    ) -> MetricRow:
        """Go on to `until` of the progress and return the row of that checkpoint.

        Args:
            until: In (0, 1]; at 1 everything is scored.
            rung_score: Before the end only `<score>.<measure>` of this name is computed, because
                a scheduler compares nothing else; `average.<measure>` stands for its three scores.
            after_chunk: Called every few optimiser steps, when the state may be saved.
        """
        while self._batches_done < len(self._batches):
            if until < 1.0 and self.progress >= until - 1e-9:
                break
            self._advance(until)
            after_chunk()
        if self._batches_done == len(self._batches):
            return self._final_row()
        return self._rung_row(rung_score)

    def probe_scores(self) -> dict[str, list[ProbeScore]]:
        """Every probe's score, by the moment it was taken.

        A batch that is rolled back is scored once: its own end is the final moment.
        """
        if self._protocol.is_rolled_back:
            return {"final": self._immediate}
        return {"immediate": self._immediate, "final": self._final}

    def state(self) -> State:
        """Everything needed to go on in another process."""
        state = State(
            values={
                "batches_done": self._batches_done,
                "steps_in_batch": self._steps_in_batch,
                "is_inside": self._is_inside,
                "immediate": [asdict(score) for score in self._immediate],
                "final": [asdict(score) for score in self._final],
                "reports": [{**asdict(r), "counts": dict(r.counts)} for r in self._reports],
                "routes": [list(pair) for pair in self._routes],
                "seconds": dict(self._seconds),
            }
        )
        state.nest("method", self.method.state())
        return state

    def load(self, state: State) -> None:
        """Continue from `state`, on a freshly built loop of the same trial."""
        values: dict[str, Any] = dict(state.values)
        self._batches_done = values["batches_done"]
        self._steps_in_batch = values["steps_in_batch"]
        self._is_inside = values["is_inside"]
        self._immediate = [ProbeScore(**score) for score in values["immediate"]]
        self._final = [ProbeScore(**score) for score in values["final"]]
        self._reports = [EditReport(**report) for report in values["reports"]]
        self._routes = [(int(trained), int(routed)) for trained, routed in values["routes"]]
        self._seconds = values["seconds"]
        self.method.load(state.inner("method"))

    def close(self) -> None:
        """Restore the backbone."""
        self.method.remove()

    def _advance(self, until: float) -> None:
        begin = time.perf_counter()
        if not self._is_inside:
            edits = [self._to_edit(self._evaluator.records[i]) for i in self._current]
            self.method.begin(
                edit_batch(
                    self._tokenizer,
                    edits,
                    end=self._protocol.target_ends_with_eos,
                    device=self._device,
                )
            )
            self._is_inside, self._steps_in_batch = True, 0
        wanted = (until * len(self._batches) - self._batches_done) * self.method.num_steps
        left = round(min(wanted, self.method.num_steps)) - self._steps_in_batch
        steps = min(max(1, left), CHUNK_STEPS)
        is_done = self.method.advance(steps)
        self._steps_in_batch += steps
        if is_done:
            self._reports.append(self.method.finish())
        self._seconds["edit"] += time.perf_counter() - begin
        if is_done:
            self._close_batch()

    @property
    def _current(self) -> list[int]:
        return self._batches[self._batches_done]

    def _close_batch(self) -> None:
        batch = self._current
        self._immediate += self._scored(batch, generates=self._protocol.is_rolled_back)
        if self._protocol.is_rolled_back:
            self._measure_routes(batch)
            self.method.remove()
        self._batches_done += 1
        self._is_inside, self._steps_in_batch = False, 0
        is_last = self._batches_done == len(self._batches)
        if self._protocol.is_rolled_back:
            if not is_last:
                self.method = self._make_method()
        elif is_last:
            everything = [index for batch in self._batches for index in batch]
            if len(self._batches) == 1:
                self._final = list(self._immediate)
            else:
                self._final = self._scored(everything, generates=self._protocol.generates)
            self._measure_routes(everything)

    def _scored(self, records: Sequence[int], *, generates: bool) -> list[ProbeScore]:
        begin = time.perf_counter()
        chosen = self._evaluator.select(records)
        answers = self._evaluator.answers(self.method.logits, chosen)
        texts = texts_before = None
        if self._protocol.generates and generates:
            texts = self._evaluator.generations(self.method.logits, chosen)
            texts_before = self._before.texts
        scores = self._evaluator.score(answers, self._before.answers, texts, texts_before)
        self._seconds["evaluation"] += time.perf_counter() - begin
        return scores

    def _measure_routes(self, records: Sequence[int]) -> None:
        if isinstance(self.method, Routed):
            chosen = self._evaluator.select(records, ["reliability"])
            # `select` keeps the records' own order; the method knows the order of the edits.
            position = {self._evaluator.probes[index].record: index for index in chosen}
            prompts = self._evaluator.prompt_batch([position[record] for record in records])
            with torch.no_grad():
                routed = self.method.routes(prompts).tolist()
            self._routes += zip(self.method.trained_routes(), routed, strict=True)

    def _rung_row(self, rung_score: str | None) -> MetricRow:
        row: MetricRow = {"progress": self.progress, "edits_seen": float(self.edits_seen)}
        if rung_score is None:
            return row
        name, measure = rung_score.split(".")
        wanted = AVERAGED if name == "average" else (name,)
        begin = time.perf_counter()
        if self._protocol.is_rolled_back:
            done = [score for score in self._immediate if score.score in wanted]
            seen = self._current if self._is_inside else []
        else:
            done = []
            seen = [i for batch in self._batches for i in batch][: self.edits_seen]
        chosen = self._evaluator.select(seen, wanted)
        answers = self._evaluator.answers(self.method.logits, chosen)
        done = done + self._evaluator.score(answers, self._before.answers)
        row.update({f"{k}.rung": v for k, v in aggregate(done, [measure]).items()})
        self._seconds["evaluation"] += time.perf_counter() - begin
        return row

    def _final_row(self) -> MetricRow:
        final = self._immediate if self._protocol.is_rolled_back else self._final
        measures = ["token", "exact", "generated"]
        row: MetricRow = {"progress": 1.0, "edits_seen": float(self.edits_seen)}
        chosen = sorted({score.record for score in final})
        before = self._evaluator.score(
            {i: self._before.answers[i] for i in self._evaluator.select(chosen)},
            self._before.answers,
        )
        moments = {"before": before, "immediate": self._immediate, "final": final}
        for moment, scores in moments.items():
            row.update({f"{k}.{moment}": v for k, v in aggregate(scores, measures).items()})
        if not self._protocol.is_rolled_back and len(self._batches) > 1:
            last = set(self._batches[-1])
            older = [s for s in final if s.score == "reliability" and s.record not in last]
            kept = aggregate(older, measures)
            row.update(
                {k.replace("reliability", "retention") + ".final": v for k, v in kept.items()}
            )
        if self._routes:
            trained, routed = torch.tensor(self._routes).T
            row["own_expert_rate"] = own_expert_rate(trained, routed) or 0.0
        row["num_steps"] = float(sum(report.num_steps for report in self._reports))
        for report in self._reports:
            for name, count in report.counts.items():
                row[f"count.{name}"] = row.get(f"count.{name}", 0.0) + count
        row["edit_seconds"] = self._seconds["edit"]
        row["evaluation_seconds"] = self._seconds["evaluation"]
        return row
