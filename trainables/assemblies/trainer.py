"""Trains a network on the training part ahead of all edits, once for all trials that want the same.

The network goes through the store, under a key of all that shaped it. What is done so far lies
beside it, every two minutes: whoever is killed, or has to run fewer rows at a time, goes on from
there, and the network is the one that it would have been, but for the rounding of hidden states
that are computed in other company.

Some of the records are held out, whole subjects of them. The network whose loss on those is least
is the one that is kept, the untrained one among them; the training ends when it has not fallen for
a while. What is drawn for a step, and all that is random in it, follows from seed and step.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from trainables.artefacts import Artefacts
from trainables.draws.training import learned_and_held_out
from trainables.errors import EditDiverged
from trainables.interfaces import Json, State, TrainingRecord
from trainables.pulse import Moment, pulse
from trainables.seeding import generator
from trainables.states import read_state, snapshot, write_state

VERSION = 1  # raised with a change that trains another network
CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True)
class TrainerSettings:
    """How long a network is trained, and on what.

    Attributes:
        name: Of the method, for messages.
        num_steps: Most steps.
        records_per_step: Records that a step draws.
        validate_every: Steps between two looks at the records that are held out.
        patience: Steps without a gain there after which the training ends.
        held_out: Share of the records that is held out.
        most_held_out: Most records of it.
        seed: Of all that is drawn.
    """

    name: str
    num_steps: int
    records_per_step: int
    validate_every: int
    patience: int
    held_out: float
    most_held_out: int
    seed: int


class Trainee(Protocol):
    """A network in training, with its optimiser."""

    def step(self, records: Sequence[TrainingRecord], generator: torch.Generator) -> float:
        """Take one step on `records`; the loss before it."""
        ...

    def loss(self, records: Sequence[TrainingRecord], generator: torch.Generator) -> float:
        """The loss on `records`, which changes nothing."""
        ...

    def network(self) -> State:
        """The network as it now is; its tensors are those that the next step writes to."""
        ...

    def state(self) -> State:
        """The network and its optimiser: all that a step changes."""
        ...

    def load(self, state: State) -> None:
        """Go on from what `state` gave."""
        ...


def trained(
    artefacts: Artefacts,
    kind: str,
    inputs: Mapping[str, Json],
    training: Sequence[TrainingRecord],
    settings: TrainerSettings,
    make: Callable[[Sequence[TrainingRecord]], Trainee],
) -> State:
    """The network of these inputs, read from the store or trained; in host memory.

    Its values say how it was trained: `steps`, `loss` (least on the held-out records), and
    `losses`, a list of steps with the loss on the records of the latest step and on those held out.

    Args:
        artefacts: The store.
        kind: Of the artefact.
        inputs: All that shapes the network beside records and settings.
        training: Records; none of them is edited.
        settings: How it is trained.
        make: Makes the untrained network, given the records that it learns from; called only where
            there is something to train.

    Raises:
        DataError: If there are too few records.
        EditDiverged: If the loss is not finite.
    """
    learned, held_out = learned_and_held_out(
        training,
        settings.held_out,
        settings.most_held_out,
        settings.records_per_step,
        settings.name,
    )
    shaped: dict[str, Json] = dict(inputs) | {
        "trainer": VERSION,
        "settings": asdict(settings),
        "records": hashlib.sha256(repr(tuple(training)).encode()).hexdigest(),
    }

    def build() -> State:
        run = _Run(make(learned), learned, held_out, settings, artefacts.draft(kind, shaped))
        return run.finished()

    return artefacts.get(kind, shaped, build)


class _Run:
    """A training under way."""

    def __init__(
        self,
        trainee: Trainee,
        learned: Sequence[TrainingRecord],
        held_out: Sequence[TrainingRecord],
        settings: TrainerSettings,
        draft: Path,
    ) -> None:
        self._trainee, self._learned, self._held_out = trainee, learned, held_out
        self._settings, self._draft = settings, draft
        self._order = _Order(len(learned), settings.seed)
        self._step, self._best_step, self._best_loss = 0, 0, math.inf
        self._best = State()
        self._losses: list[Json] = []

    def finished(self) -> State:
        """The best network, once no further step is taken."""
        settings, saved = self._settings, time.monotonic()
        if not self._resume():
            self._validate(None)
        while self._step < settings.num_steps and not self._is_idle:
            loss = self._advance()
            if self._step % settings.validate_every == 0 or self._step == settings.num_steps:
                self._validate(loss)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                write_state(self._draft, self._state())
                saved = time.monotonic()
        told: dict[str, Json] = {
            "steps": self._step,
            "best_step": self._best_step,
            "loss": self._best_loss,
            "losses": self._losses,
        }
        return State(self._best.tensors, self._best.values | told)

    @property
    def _is_idle(self) -> bool:
        """Whether nothing was gained for as long as one may wait."""
        return self._step - self._best_step >= self._settings.patience

    def _advance(self) -> float:
        settings, step = self._settings, self._step
        records = [self._learned[n] for n in self._order.of(step, settings.records_per_step)]
        loss = self._trainee.step(records, generator(settings.seed, f"training step {step}"))
        self._check(loss)
        self._step += 1
        self._say(loss)
        return loss

    def _validate(self, loss: float | None) -> None:
        """Look at the held-out records, always by the same draws."""
        self._say(loss)
        found = self._trainee.loss(self._held_out, generator(self._settings.seed, "held out"))
        self._check(found)
        self._losses.append([self._step, loss, found])
        if found < self._best_loss:
            self._best_loss, self._best_step = found, self._step
            self._best = snapshot(self._trainee.network())

    def _say(self, loss: float | None) -> None:
        num_steps = self._settings.num_steps
        pulse().say(Moment("training a network", step=self._step, num_steps=num_steps, loss=loss))

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise EditDiverged(
                f"the network of method {self._settings.name} diverged in training: its loss is "
                f"{loss} after {self._step} of {self._settings.num_steps} steps"
            )

    def _state(self) -> State:
        state = State(
            values={
                "step": self._step,
                "best_step": self._best_step,
                "best_loss": self._best_loss,
                "losses": self._losses,
            }
        )
        state.nest("trainee", self._trainee.state())
        state.nest("best", self._best)
        return state

    def _resume(self) -> bool:
        """Whether an earlier process left something that this one went on from."""
        for half in self._draft.parent.glob(f"{self._draft.name}.*.tmp"):
            half.unlink(missing_ok=True)  # of a process that was killed as it wrote
        state = read_state(self._draft)
        if state is None:
            return False
        values: Any = state.values
        self._trainee.load(state.inner("trainee"))
        self._best = state.inner("best")
        self._step, self._losses = values["step"], values["losses"]
        self._best_step, self._best_loss = values["best_step"], values["best_loss"]
        return True


class _Order:
    """Positions of records in passes over all of them, each shuffled anew."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._passes: dict[int, list[int]] = {}

    def of(self, step: int, per_step: int) -> list[int]:
        """The positions that step `step` takes."""
        return [self._at(n) for n in range(step * per_step, (step + 1) * per_step)]

    def _at(self, number: int) -> int:
        which, place = divmod(number, self._count)
        if which not in self._passes:
            drawn = torch.randperm(
                self._count, generator=generator(self._seed, f"training pass {which}")
            )
            self._passes = {k: v for k, v in self._passes.items() if k == which - 1}
            self._passes[which] = drawn.tolist()
        return self._passes[which][place]
