"""Edits batch after batch and evaluates, pausing at checkpoints; no Ray.

One loop serves all protocols. `single` and `batch` roll the backbone back after each batch and
average over batches; `lifelong` and `serial` roll nothing back. In a serial stream a question is
edited several times, and what counts is its newest answer. Progress is the share of the work done:
batches, and optimiser steps within the batch under way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from statistics import mean
from typing import Any

import torch

from trainables.ability.abilities import Abilities
from trainables.edits.stream import EditStream
from trainables.interfaces import (
    DecodeState,
    Edit,
    EditBatch,
    EditMethod,
    EditRecord,
    PromptBatch,
    State,
)
from trainables.metrics.evaluator import (
    MEASURES,
    Evaluator,
    ProbeScore,
    aggregate,
    aggregate_perplexity,
    with_perplexities,
)
from trainables.metrics.prompt_routes import Routed, TokenRouted, experts_of, route_rows
from trainables.prompts import edit_batch
from trainables.pulse import Moment, pulse
from trainables.trials.compared import Compares
from trainables.trials.learner import Learner
from trainables.trials.measurements import CurvePoint, Measurements, edit_bytes
from trainables.trials.protocol import Before, EditProtocol

MetricRow = dict[str, float]
CHUNK_STEPS = 10  # optimiser steps between two chances to save
_FORM = 2  # of a state; another code's may be of another


class EditLoop:
    """One trial: applies the batches of `stream` with a method and scores them."""

    def __init__(
        self,
        tokenizer: Any,
        evaluator: Evaluator,
        stream: EditStream,
        protocol: EditProtocol,
        before: Before,
        *,
        learner: Learner,
        device: torch.device | str = "cpu",
        to_edit: Callable[[EditRecord], Edit],
        abilities: Abilities | None = None,
    ) -> None:
        """Prepare a trial; nothing is edited yet.

        Args:
            tokenizer: Of the backbone.
            evaluator: Of the records that the batches index.
            stream: Record indices, in the order in which they are edited.
            protocol: Roll-back, end token, generation.
            before: What the pristine backbone answers.
            learner: Of the method; nothing is learned yet.
            device: Where token rows go.
            to_edit: What a method may see of a record.
            abilities: Tasks that no edit is about, asked where a trial rolls back or ends.
        """
        self._learner = learner
        self._tokenizer = tokenizer
        self._evaluator = evaluator
        self._stream = stream
        self._batches = [list(batch) for batch in stream.batches]
        self._protocol = protocol
        self._before = before
        self._device = device
        self._to_edit = to_edit
        self._abilities = abilities
        self._batches_done = 0
        self._steps_in_batch = 0
        self._is_inside = False
        self._measurements = Measurements()

    @property
    def method(self) -> EditMethod:
        """What answers now."""
        return self._learner.method

    @property
    def progress(self) -> float:
        """Share of the trial's work that is done, in [0, 1]."""
        inside = self._steps_in_batch / max(self.method.num_steps, 1) if self._is_inside else 0.0
        together = self._learner.num_together
        return (self._batches_done + together * min(inside, 1.0)) / len(self._batches)

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
        done = self._batches_done + (self._learner.num_together if self._is_inside else 0)
        return sum(len(batch) for batch in self._batches[:done])

    def run(
        self,
        until: float = 1.0,
        compares: Compares | None = None,
        after_chunk: Callable[[], None] = lambda: None,
    ) -> MetricRow:
        """Go on to `until` of the progress and return the row of that checkpoint.

        Args:
            until: In (0, 1]; at 1 everything is scored.
            compares: Before the end nothing else is computed; None: nothing at all.
            after_chunk: Called every few steps, when the state may be saved.
        """
        while not self.is_at(until):
            self.advance(until)
            after_chunk()
        if self._batches_done == len(self._batches):
            return self._final_row()
        return self._rung_row(compares)

    def probe_scores(self) -> dict[str, list[ProbeScore]]:
        """Every probe's score, by the moment it was taken.

        A batch that is rolled back is scored once: its own end is the final moment.
        """
        if self._protocol.is_rolled_back:
            return {"final": self._measurements.immediate}
        return {"immediate": self._measurements.immediate, "final": self._measurements.final}

    def record_lines(self) -> Iterator[dict[str, Any]]:
        """Every probe's score as JSON, and the curve; see `Measurements.lines`."""
        rolled_back = self._protocol.is_rolled_back
        return self._measurements.lines(self._stream, self.records, is_rolled_back=rolled_back)

    def curve(self) -> list[MetricRow]:
        """Reliability of all edits so far after every batch; empty unless asked for."""
        return self._measurements.curve_rows()

    def state(self) -> State:
        """Everything needed to go on in another process; live tensors, as of `EditMethod.state`."""
        state = State()
        state.values["form"] = _FORM
        state.values["batches_done"] = self._batches_done
        state.values["steps_in_batch"] = self._steps_in_batch
        state.values["is_inside"] = self._is_inside
        state.values["tally"] = self._measurements.values()
        if not self.is_at(1.0):  # What is left behind the end is to make the row.
            state.nest("learner", self._learner.state())
        return state

    def load(self, state: State) -> None:
        """Continue from `state`, on a freshly built loop of the same trial.

        One of another form, which an earlier code left, is not read: the trial begins anew.
        """
        values: dict[str, Any] = dict(state.values)
        if values.get("form") != _FORM:
            return
        self._batches_done = values["batches_done"]
        self._steps_in_batch = values["steps_in_batch"]
        self._is_inside = values["is_inside"]
        self._measurements = Measurements.from_values(values["tally"])
        if not self.is_at(1.0) and not self._learner.load(state.inner("learner")):
            self._is_inside, self._steps_in_batch = False, 0

    def close(self) -> None:
        """Restore the backbone."""
        self._learner.roll_back(goes_on=False)

    def is_at(self, until: float) -> bool:
        """Whether nothing is left to do up to `until` of the progress."""
        is_far = until < 1.0 and self.progress >= until - 1e-9
        return is_far or self._batches_done == len(self._batches)

    def advance(self, until: float) -> None:
        """Take a few steps towards `until`, at which the loop is not yet; score what is done."""
        steps, begin = self.open(until), self.now()
        is_done = self._learner.advance(steps)
        self.shut(steps, is_done=is_done, seconds=self.now() - begin)

    def open(self, until: float) -> int:
        """Begin a batch where none is under way; the steps that its method is to take now."""
        self._tell_step()
        if not self._is_inside:
            together = self._most_together(until)
            self._learner.make_ready(together)  # no part of editing, as when there is one method
            begin = self.now()
            self._begin(together)
            self._measurements.seconds["edit"] += self.now() - begin
        share = (until * len(self._batches) - self._batches_done) / self._learner.num_together
        wanted = share * self.method.num_steps
        left = round(min(wanted, self.method.num_steps)) - self._steps_in_batch
        return min(max(1, left), CHUNK_STEPS)

    def shut(self, steps: int, *, is_done: bool, seconds: float) -> None:
        """Note steps that took, with `open`, so many seconds; score the batch if it is done."""
        begin = self.now()
        self._steps_in_batch += steps
        if is_done:
            pulse().stage("finishing the batch")
            self._measurements.reports += self._learner.finish()
        self._measurements.seconds["edit"] += seconds + self.now() - begin
        if is_done:
            together = self._learner.num_together
            for number in range(together):
                self._learner.take(number)
                self._close_batch(stays=number < together - 1)

    def _begin(self, together: int) -> None:
        """Begin a batch, or several of one edit each side by side."""
        self._learner.begin(self._batch(together), together)
        self._is_inside, self._steps_in_batch = True, 0

    def _batch(self, num_together: int) -> EditBatch:
        """The edits of the next batch, or those of several as one."""
        group = self._batches[self._batches_done :][:num_together]
        edits = [self._to_edit(self._evaluator.records[i]) for batch in group for i in batch]
        ends = self._protocol.target_ends_with_eos
        return edit_batch(self._tokenizer, edits, end=ends, device=self._device)

    def _most_together(self, until: float) -> int:
        """How many of the next batches may be learned side by side, as far as is wanted now."""
        if not self._protocol.is_rolled_back:
            return 1
        wanted = max(1, math.ceil(until * len(self._batches) - 1e-9) - self._batches_done)
        left = self._batches[self._batches_done :][:wanted]
        singles = sum(1 for _ in takewhile(lambda batch: len(batch) == 1, left))
        if singles < 2:
            return 1
        return min(singles, self._learner.most_side_by_side(lambda: self._batch(1)))

    def now(self) -> float:
        """Seconds on a clock, when all that a GPU was told is done: a step is no evaluation's."""
        if torch.device(self._device).type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _tell_step(self) -> None:
        steps = self._steps_in_batch if self._is_inside else 0
        where = (self._batches_done + 1, len(self._batches), steps, self.method.num_steps)
        pulse().say(Moment("editing", *where, loss=pulse().loss if steps else None))

    def _close_batch(self, *, stays: bool) -> None:
        """Score a batch that has been learned; `stays`: others do that were learned with it."""
        batch = self._batches[self._batches_done]
        is_final = self._protocol.is_rolled_back or len(self._batches) == 1
        self._measurements.immediate += self._scored(batch, is_final=is_final)
        self._note_trained(batch)
        if self._protocol.is_rolled_back:
            self._measure_method(batch)
        elif self._protocol.has_curve:
            self._extend_curve()
        self._batches_done += 1
        self._is_inside, self._steps_in_batch = False, 0
        is_last = self._batches_done == len(self._batches)
        if self._protocol.is_rolled_back and not stays:
            self._learner.roll_back(goes_on=not is_last)
        elif is_last and not self._protocol.is_rolled_back:
            self._measure_end()

    def _measure_end(self) -> None:
        """Scores what holds after the last edit of a stream, and what should no longer hold."""
        newest = self._stream.latest(self.edits_seen)
        if len(self._batches) == 1:
            self._measurements.final = list(self._measurements.immediate)
        else:
            self._measurements.final = self._scored(newest, is_final=True)
        outdated = self._stream.outdated()
        if outdated:
            self._measurements.outdated = self._scored(outdated, ["reliability"])
        if isinstance(self.method, Routed) and not isinstance(self.method, TokenRouted):
            self._note_owners(self._stream.order)  # experts that merged since have another number
        self._measure_method(newest)

    def _scored(
        self,
        records: Sequence[int],
        scores: Sequence[str] | None = None,
        *,
        is_final: bool = False,
    ) -> list[ProbeScore]:
        """Scores as of now; final ones are of generated texts too, and tell wrong answers."""
        begin = self.now()
        pulse().stage("evaluating")
        chosen = self._evaluator.select(records, scores)
        answers = self._evaluator.answers(self._logits, chosen)
        texts = texts_before = None
        if self._protocol.generates and is_final:
            before = self._before.generated or {}
            texts = self._evaluator.texts(
                self._evaluator.generations(self._logits, chosen, answers, before)
            )
            texts_before = self._evaluator.texts(before)
        old = self._stream.old_answers(self.records) if is_final else None
        found = self._evaluator.score(answers, self._before.answers, texts, texts_before, old)
        if self._protocol.has_passages:
            edits = self._evaluator.select(records, ["reliability"])
            measured = self._evaluator.perplexities(self._logits, edits)
            found = with_perplexities(found, list(answers), measured)
        self._measurements.seconds["evaluation"] += self.now() - begin
        return found

    def _logits(
        self, prompts: PromptBatch, state: DecodeState | None
    ) -> tuple[torch.Tensor, DecodeState]:
        """The method's logits; each call is a sign of life, as an evaluation may take minutes."""
        pulse().tick()
        return self.method.logits(prompts, state)

    def _note_trained(self, batch: Sequence[int]) -> None:
        """Remembers which experts have learned the edits of a batch."""
        if isinstance(self.method, TokenRouted):
            chosen = self._evaluator.select(batch, ["reliability"])
            owners = [self._evaluator.probes[index].record for index in chosen]
            found = experts_of(self.method, self._evaluator, chosen)
            self._measurements.trained.update(zip(owners, found, strict=True))
        elif isinstance(self.method, Routed):
            self._note_owners(batch)

    def _note_owners(self, newest: Sequence[int]) -> None:
        """Remembers the expert that holds each of the newest edits, as the method itself tells."""
        assert isinstance(self.method, Routed)
        owners = list(self.method.trained_routes())[-len(newest) :]
        pairs = zip(newest, owners, strict=True)
        self._measurements.trained.update((record, (int(expert),)) for record, expert in pairs)

    def _measure_method(self, records: Sequence[int]) -> None:
        """Note where the edits are sent, what the method adds in bytes, and what it has left."""
        begin = self.now()
        part = self._batches_done if self._protocol.is_rolled_back else 0
        self._measurements.routes += route_rows(self.method, self._evaluator, records, part)
        self._measurements.state_bytes.append(edit_bytes(self.method))
        if self._abilities is not None:
            self._measurements.ability += self._abilities.ask(self._logits, part)
        self._measurements.seconds["evaluation"] += self.now() - begin

    def _extend_curve(self) -> None:
        """Scores every batch so far on what of it still holds."""
        newest = set(self._stream.latest(self.edits_seen))
        scores = {score.record: score for score in self._scored(list(newest), ["reliability"])}
        for number, batch in enumerate(self._batches[: self._batches_done + 1]):
            held = [scores[record] for record in batch if record in newest]
            if held:
                token, exact = mean(s.token for s in held), mean(s.exact for s in held)
                point = CurvePoint(self.edits_seen, number, len(held), token, exact)
                self._measurements.curve.append(point)

    def _rung_row(self, compares: Compares | None) -> MetricRow:
        row: MetricRow = {"progress": self.progress, "edits_seen": float(self.edits_seen)}
        if compares is None:
            return row
        wanted = compares.scores
        if self._protocol.is_rolled_back:
            done = [score for score in self._measurements.immediate if score.score in wanted]
            for number in range(self._learner.num_together if self._is_inside else 0):
                self._learner.take(number)
                done += self._scored(self._batches[self._batches_done + number], wanted)
        else:
            done = self._scored(self._stream.latest(self.edits_seen), wanted)
        found = aggregate(done, MEASURES) | aggregate_perplexity(done)
        return row | {f"{k}.rung": v for k, v in found.items() if k in compares.numbers}

    def _final_row(self) -> MetricRow:
        """The row of the end."""
        rolled_back = self._protocol.is_rolled_back
        final = self._measurements.immediate if rolled_back else self._measurements.final
        chosen = self._evaluator.select(sorted({score.record for score in final}))
        before = self._evaluator.score(
            {index: self._before.answers[index] for index in chosen}, self._before.answers
        )
        if self._before.perplexities is not None:
            before = with_perplexities(before, chosen, self._before.perplexities)
        row: MetricRow = {"progress": 1.0, "edits_seen": float(self.edits_seen)}
        row |= {f"count.{name}": float(n) for name, n in self._evaluator.counts.items()}
        if self._protocol.generates:
            row["generation_limit"] = float(self._evaluator.generation_limit)
        return row | self._measurements.row(self._stream, before, is_rolled_back=rolled_back)
