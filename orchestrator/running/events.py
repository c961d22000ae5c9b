"""Translates Tune's events for a listener: which trial reported, ended or was lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ray import tune

from orchestrator.errors import LedgerError, UsageError
from orchestrator.running.interruption import Interruption
from orchestrator.running.nodes import MOST_UNFIT, Nodes
from orchestrator.store.rows import MAX_RETRIES, Row


class Listener(Protocol):
    """Is told what happens to the trials; `key` is a trial's fingerprint."""

    def on_stage(self, stage: str) -> None:
        """What goes on while no trial runs."""

    def on_step(self, *, has_moved: bool) -> None:
        """Tune looked around once more; `has_moved`: a trial began, reported or ended."""

    def on_result(self, key: str, row: Row) -> None:
        """One row of a trial: a rung, or its end."""

    def on_stopped(self, key: str, reason: str) -> None:
        """The scheduler stopped a trial after its last rung."""

    def on_lost(self, key: str, error: str) -> None:
        """A trial was lost before it began, and Tune does not try it again."""

    def on_misplaced(self, key: str, problem: str) -> None:
        """A trial was given to a node that cannot work on the sweep; it has not ended."""

    def on_error(self, key: str, error: str) -> None:
        """A trial's actor was lost more often than it is retried."""


class Stop(tune.Stopper):
    """Ends Tune's loop when the sweep is interrupted; no trial is stopped for its own result."""

    def __init__(self, interruption: Interruption) -> None:
        """Nothing has ended."""
        self._interruption = interruption

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """False: a trial ends by itself, or its scheduler stops it."""
        return False

    def stop_all(self) -> bool:
        """True from the interruption on."""
        return self._interruption.is_over


class Events(tune.Callback):
    """Hands Tune's events on to a listener; a ledger that cannot be written ends the sweep."""

    def __init__(
        self, listener: Listener, scheduler: Any, interruption: Interruption, nodes: Nodes
    ) -> None:
        """Listen to one Tuner; nodes that are left out by now get none of its trials."""
        self._listener = listener
        self._stopped: Mapping[str, str] = getattr(scheduler, "stopped", {})
        self._interruption = interruption
        self._nodes = nodes
        self._left_out = frozenset(nodes.unfit)  # from the beginning of this Tuner on
        self._trials: Sequence[Any] = ()  # all that Tune knows
        self.num_moves = 0  # of trials: another number whenever one began, reported or ended
        self._moves_before = 0  # this step
        self.heard: set[str] = set()  # trials of which the listener knows what became of them

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore that this project never asks of it.
        return {}

    def due(self) -> str:
        """Text that says how many trials have not ended."""
        states = Counter(trial.status.lower() for trial in tuple(self._trials))
        return f"trials: {', '.join(f'{count} {state}' for state, count in sorted(states.items()))}"

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune looks around."""
        self._trials = trials
        self._moves_before = self.num_moves

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune has looked around."""
        has_moved = self.num_moves != self._moves_before
        self._tell(partial(self._listener.on_step, has_moved=has_moved))

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Nothing more will come of this Tuner."""
        self._tell(partial(self._listener.on_step, has_moved=False))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial began."""
        self.num_moves += 1

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is tried again."""
        self.num_moves += 1

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial came to a rung or to its end, or gave back what its node cannot run."""
        self.num_moves += 1
        key, row = trial.config["trial_key"], json.loads(result["row"])
        if row["done"]:
            self.heard.add(key)
        if row["status"] == "unfit":
            self._nodes.leave_out(row["node"], row["error"])
            self._tell_misplaced(key)
        elif row["status"] == "unstored":
            self._interruption.fail(LedgerError(f"a trial cannot write: {row['error']}"))
        else:
            self._tell(self._listener.on_result, key, row)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended; this is news only if the scheduler stopped it."""
        key = trial.config["trial_key"]
        self.num_moves += 1
        if key in self._stopped:
            self.heard.add(key)
            self._tell(self._listener.on_stopped, key, self._stopped[key])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial lost its actor for good."""
        self.num_moves += 1
        key = trial.config["trial_key"]
        self.heard.add(key)
        self._nodes.look()  # one without the code shows it here alone
        if self._nodes.unfit.keys() - self._left_out:
            self._tell_misplaced(key)
            return
        written = Path(trial.error_file).read_text() if trial.error_file else ""
        lines = written.strip().splitlines()
        reason = lines[-1] if lines else "the worker process died"
        # Tune repeats a trial that runs, but not one whose kept actor dies while it takes it over.
        is_tried_out = trial.num_failures > MAX_RETRIES
        event = self._listener.on_error if is_tried_out else self._listener.on_lost
        self._tell(event, key, reason)

    def _tell_misplaced(self, key: str) -> None:
        problems = [self._nodes.unfit[node] for node in self._nodes.unfit.keys() - self._left_out]
        self._tell(self._listener.on_misplaced, key, "; ".join(sorted(problems)))
        self._tell(self._nodes.raise_if_more_than, MOST_UNFIT)

    def _tell(self, event: Callable[..., None], *what: Any) -> None:
        try:
            event(*what)
        except UsageError as error:
            self._interruption.fail(error)
