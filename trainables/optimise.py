"""The one resumable optimisation loop of all gradient methods, and the batch that it works on.

Between any two `advance` calls the loop can be saved with its optimiser and continued elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from trainables.errors import EditDiverged
from trainables.interfaces import EditBatch, EditReport, State
from trainables.prompts import batch_from, batch_state
from trainables.pulse import pulse

OptimiserName = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "cosine"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class OptimiserSettings:
    """How one batch of edits is optimised.

    Attributes:
        name: Update rule.
        edit_lr: Learning rate.
        num_steps: Most steps that one batch takes.
        stop_loss: The loop ends when the loss falls below; None: never early.
        weight_decay: Decoupled for adamw, added to the gradient otherwise.
        betas: Decay rates of the moments; not read by sgd.
        schedule: Course of the rate after the warm-up: unchanged, or half a cosine down to 0.
        warmup_share: Share of `num_steps` over which the rate rises linearly, in [0, 1).
    """

    name: OptimiserName
    edit_lr: float
    num_steps: int
    stop_loss: float | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = "constant"
    warmup_share: float = 0.0

    def rate(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0; a function of the step alone.

        The warm-up takes w = ceil(warmup_share * num_steps) steps with edit_lr * (step + 1) / w.
        """
        num_warm = math.ceil(self.warmup_share * self.num_steps - 1e-9)
        if step < num_warm:
            return self.edit_lr * (step + 1) / num_warm
        if self.schedule == "constant":
            return self.edit_lr
        done = (step - num_warm) / max(1, self.num_steps - num_warm)
        return self.edit_lr * 0.5 * (1.0 + math.cos(math.pi * done))


class Optimisation:
    """Steps on `parameters` until `num_steps` are taken, the loss is low or all is learned.

    Attributes:
        loss: Scalar loss of the whole batch at the present parameters.
        steps_taken: So far.
        last_loss: The loss before the last step, or by which the loop ended.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        loss: Callable[[], Tensor],
        settings: OptimiserSettings,
        *,
        agreed: Callable[[Tensor], Tensor] = lambda own: own,
        after_step: Callable[[], None] | None = None,
        is_learned: Callable[[], bool] = lambda: False,
        num_losses: int = 1,
    ) -> None:
        """Prepare the loop; nothing is computed yet.

        Args:
            parameters: What is trained, by name; they must require gradients.
            loss: Scalar loss of the whole batch at the present parameters.
            settings: Update rule and budget.
            agreed: What all processes of a trial take for a loss, so that all stop at the same
                step: `MicroBatch.agreed` of the backbone.
            after_step: Called after every step, for projections such as a norm box.
            is_learned: Asked after every loss; True ends the loop before the step, as a loss below
                `stop_loss` does. All processes of a trial must answer alike.
            num_losses: So many the loss is the sum of; who looks at the trial sees their mean.
        """
        self._parameters = dict(parameters)
        self.loss = loss
        self._agreed = agreed
        self._settings = settings
        self._after_step = after_step
        self._is_learned = is_learned
        self._num_losses = num_losses
        self._optimiser = _optimiser(list(self._parameters.values()), settings)
        self.steps_taken = 0
        self.last_loss: float | None = None
        self._is_done = settings.num_steps == 0

    @property
    def is_done(self) -> bool:
        """True when no further step will be taken."""
        return self._is_done

    @property
    def trained_bytes(self) -> int:
        """Bytes of the parameters."""
        return sum(each.nbytes for each in self._parameters.values())

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` steps; True when the batch is done.

        Raises:
            EditDiverged: If the loss is not finite.
        """
        for _ in range(max_steps):
            if self._is_done:
                break
            loss = self.loss()
            value = float(self._agreed(loss.detach()))
            goes_on = self.judge(value)
            pulse().step(value / self._num_losses)
            if goes_on:
                self.clear()
                loss.backward()
                self.step()
        return self._is_done

    def judge(self, value: float) -> bool:
        """Take down a loss; whether a step should follow.

        Raises:
            EditDiverged: If it is not finite.
        """
        if not math.isfinite(value):
            raise EditDiverged(
                f"loss is {value} after {self.steps_taken} steps "
                f"(edit_lr={self._settings.edit_lr:g})"
            )
        self.last_loss = value
        is_low = self._settings.stop_loss is not None and value < self._settings.stop_loss
        self._is_done = is_low or self._is_learned()
        return not self._is_done

    def clear(self) -> None:
        """Drop the gradients of the step before."""
        self._optimiser.zero_grad(set_to_none=True)

    def step(self) -> None:
        """One step by the gradients that are there."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.rate(self.steps_taken)
        self._optimiser.step()
        if self._after_step is not None:
            self._after_step()
        self.steps_taken += 1
        self._is_done = self.steps_taken >= self._settings.num_steps

    def state(self) -> State:
        """Optimiser moments and counters; the parameters are stored by their owner."""
        state = State(
            values={
                "steps_taken": self.steps_taken,
                "last_loss": self.last_loss,
                "is_done": self._is_done,
            }
        )
        state.tensors |= moments_of(self._optimiser, self._parameters)
        return state

    def load(self, state: State) -> None:
        """Continue from `state`; the parameters must have been loaded by their owner."""
        self.steps_taken = int(state.values["steps_taken"])  # type: ignore[arg-type]
        last = state.values["last_loss"]
        self.last_loss = None if last is None else float(last)  # type: ignore[arg-type]
        self._is_done = bool(state.values["is_done"])
        load_moments(self._optimiser, self._parameters, state.tensors)


class Together:
    """Optimisations side by side, whose losses one pass computes; each stops by itself."""

    def __init__(
        self,
        each: Sequence[Optimisation],
        losses: Callable[[Sequence[int]], Tensor],
        agreed: Callable[[Tensor], Tensor] = lambda own: own,
    ) -> None:
        """Nothing is computed yet.

        Args:
            each: The optimisations; their own losses are not asked.
            losses: Losses, (n,), of the optimisations with these numbers; no parameter of one may
                have a part in the loss of another.
            agreed: As of `Optimisation`.
        """
        self.each = tuple(each)
        self._losses, self._agreed = losses, agreed

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` steps of each; True when all are done.

        Raises:
            EditDiverged: If a loss is not finite.
        """
        for _ in range(max_steps):
            running = [number for number, each in enumerate(self.each) if not each.is_done]
            if not running:
                break
            losses = self._losses(running)
            values = self._agreed(losses.detach()).tolist()
            stepping = [
                place
                for place, (number, value) in enumerate(zip(running, values, strict=True))
                if self.each[number].judge(value)
            ]
            pulse().step(mean(values))
            if not stepping:
                break
            for place in stepping:
                self.each[running[place]].clear()
            torch.stack([losses[place] for place in stepping]).sum().backward()
            for place in stepping:
                self.each[running[place]].step()
        return all(each.is_done for each in self.each)


def moments_of(optimiser: torch.optim.Optimizer, names: Iterable[str]) -> dict[str, Tensor]:
    """What an optimiser has gathered of each parameter, as `NAME/MOMENT`.

    Args:
        optimiser: Any of torch's.
        names: Of its parameters, in their order.
    """
    named = list(names)
    return {
        f"{named[index]}/{key}": torch.as_tensor(value)
        for index, moments in optimiser.state_dict()["state"].items()
        for key, value in moments.items()
        if value is not None
    }


def load_moments(
    optimiser: torch.optim.Optimizer, names: Iterable[str], tensors: Mapping[str, Tensor]
) -> None:
    """Give back what `moments_of` took, to an optimiser of the same parameters."""
    index = {name: position for position, name in enumerate(names)}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        moments.setdefault(index[name], {})[moment] = value.clone()
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})


@dataclass
class BatchRun:
    """A batch of edits under way, from `begin` to `finish`.

    Attributes:
        batch: Its edits.
        optimisation: The loop that learns them.
        counts: Fall-backs that it took, by name, for the report.
    """

    batch: EditBatch
    optimisation: Optimisation
    counts: dict[str, int] = field(default_factory=dict)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` steps; True when the batch is done.

        Raises:
            EditDiverged: If the loss is not finite.
        """
        return self.optimisation.advance(max_steps)

    def report(self) -> EditReport:
        """The report of the batch so far."""
        return EditReport(
            num_edits=len(self.batch),
            num_steps=self.optimisation.steps_taken,
            final_loss=self.optimisation.last_loss,
            counts=self.counts,
        )

    def store(self, state: State) -> None:
        """Add to a method's state what this batch needs to go on."""
        state.nest("batch", batch_state(self.batch))
        state.nest("optimisation", self.optimisation.state())
        if self.counts:
            state.values["counts"] = dict(self.counts)

    def resume(self, state: State) -> None:
        """Go on with what `store` wrote; the batch was given already, by `stored_batch`."""
        self.optimisation.load(state.inner("optimisation"))
        counts: Any = state.values.get("counts", self.counts)
        self.counts = dict(counts)


def stored_batch(state: State, device: torch.device) -> EditBatch | None:
    """The batch that `BatchRun.store` wrote; None when none was under way."""
    return batch_from(state.inner("batch"), device) if "batch" in state.values else None


def begun(what: _T | None) -> _T:
    """`what`, if a method's `begin` has set it.

    Raises:
        RuntimeError: If it has not.
    """
    if what is None:
        raise RuntimeError("no batch is under way: begin() comes first")
    return what


@dataclass(frozen=True)
class TargetRows:
    """The rows that target tokens belong to.

    Attributes:
        index: Row of each token, (M,), ascending.
        counts: Tokens of each row up to the last that has one.
    """

    index: Tensor
    counts: Tensor

    @classmethod
    def of(cls, index: Tensor) -> TargetRows:
        """Count the tokens, for which the host waits: once for a batch, not in every step."""
        return cls(index, torch.bincount(index, minlength=int(index[-1]) + 1))


def target_loss(logits: Tensor, labels: Tensor, rows: TargetRows) -> Tensor:
    """Negative log-likelihood of the targets: mean over a row's tokens, then over rows.

    Rows count alike whatever their target's length, as in a mean over records.

    Args:
        logits: (M, V) at the positions that predict a target token.
        labels: (M,) target tokens.
        rows: The row of each position.

    Returns:
        Scalar float32.
    """
    return row_loss(token_losses(logits, labels), rows)


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each token, (M,) float32, of logits (M, V) and labels (M,)."""
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def row_loss(losses: Tensor, rows: TargetRows) -> Tensor:
    """Mean of the losses (M,) of each row's tokens, then of all rows."""
    return row_means(losses, rows).sum() / (rows.counts > 0).sum()


def row_means(losses: Tensor, rows: TargetRows) -> Tensor:
    """Mean of the losses (M,) of each row's tokens, (B,); 0 for a row without any."""
    sums = losses.new_zeros(len(rows.counts)).index_add(0, rows.index, losses)
    return sums / rows.counts.clamp_min(1)


def _optimiser(
    parameters: list[torch.nn.Parameter], settings: OptimiserSettings
) -> torch.optim.Optimizer:
    lr, decay = settings.edit_lr, settings.weight_decay
    if not parameters:
        raise ValueError("nothing to optimise")
    if settings.name == "adam":
        return torch.optim.Adam(parameters, lr=lr, betas=settings.betas, weight_decay=decay)
    if settings.name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, betas=settings.betas, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=lr, weight_decay=decay)
