"""Finds vectors for a batch of facts, and spreads them over the output projections of some layers.

Source: MEMIT (Meng et al., arXiv:2210.07229), whose two steps its relatives share; they differ in
how the change of one projection is solved for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables.backbones.hidden_states.covariance import ridged
from trainables.backbones.hidden_states.subject_rows import (
    KlPosition,
    SubjectRows,
    edits_at_once,
    subject_rows,
)
from trainables.backbones.hidden_states.subject_vectors import (
    SubjectVectors,
    VectorSettings,
    keys_and_states,
)
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, EditBatch, EditReport, Json, PromptBatch, State
from trainables.optimise import Optimisation, OptimiserSettings
from trainables.prompts import batch_state


@dataclass(frozen=True)
class Search:
    """How the vectors of a batch are looked for.

    Attributes:
        v_lr: Adam's learning rate.
        v_num_steps: Most updates.
        settings: Of their loss.
        kl_position: Token of "{subject} is a" whose prediction is kept.
    """

    v_lr: float
    v_num_steps: int
    settings: VectorSettings
    kl_position: KlPosition


@dataclass(frozen=True)
class _Found:
    """Of edits whose vectors do not move any more: `SubjectVectors`' base, delta, losses, steps."""

    base: Tensor
    delta: Tensor
    losses: Tensor
    steps: list[int]


class VectorRun:
    """A batch under way: one vector for each edit behind a layer, while no weight changes.

    Vectors are found together as long as their rows run all at once (`edits_at_once`), then those
    of the next edits: an edit's vector depends on no other, and memory stays that of so many.
    """

    def __init__(
        self,
        backbone: Backbone,
        batch: EditBatch,
        contexts: Sequence[str],
        layer: int,
        search: Search,
        within: Callable[[PromptBatch], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        """Set up the first vectors.

        Args:
            backbone: Being edited.
            batch: The edits.
            contexts: Prefixes of their prompts.
            layer: Decoder layer whose output the vectors are added to.
            search: How they are looked for.
            within: What surrounds the pass through the layers up to `layer`, given its rows.
        """
        self.batch = batch
        self._backbone, self._contexts, self._layer = backbone, tuple(contexts), layer
        self._search, self._within = search, within
        self._at_once = edits_at_once(
            backbone, len(contexts), with_kl=search.settings.kl_weight > 0
        )
        self.rows = self._rows_of(batch)
        self._found: list[_Found] = []
        self._begin(min(self._at_once, len(batch)))

    @property
    def num_steps(self) -> int:
        """Most steps of the whole batch."""
        return self._search.v_num_steps * math.ceil(len(self.batch) / self._at_once)

    @property
    def base(self) -> Tensor:
        """The state h of each edit so far, (N, D) float32."""
        return torch.cat([each.base for each in self._so_far()])

    @property
    def delta(self) -> Tensor:
        """The vector of each edit so far, (N, D) float32."""
        return torch.cat([each.delta for each in self._so_far()])

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` updates; True when all vectors are found.

        Raises:
            EditDiverged: If a loss is not finite.
        """
        while True:
            before = self._optimisation.steps_taken
            is_found = self._optimisation.advance(max_steps)
            max_steps -= self._optimisation.steps_taken - before
            done = self._num_found + self._vectors.rows.num_edits
            if not is_found or done == len(self.batch):
                return is_found
            self._found = self._so_far()
            self._begin(min(self._at_once, len(self.batch) - done))
            if max_steps <= 0:
                return False

    def report(self, is_sampled: bool) -> EditReport:
        """The report of the batch.

        Args:
            is_sampled: Whether the backbone itself sampled the text of its second moments.
        """
        losses = torch.cat([each.losses for each in self._so_far()])
        return EditReport(
            num_edits=len(self.batch),
            num_steps=max(max(each.steps) for each in self._so_far()),  # of one vector
            final_loss=float(losses.mean()),
            counts={
                "subject_absent": sum(self.rows.absent),
                "covariance_from_samples": int(is_sampled),
            },
        )

    def reports(self, is_sampled: bool) -> list[EditReport]:
        """As `report`, of each edit by itself."""
        losses = [float(loss) for each in self._so_far() for loss in each.losses]
        steps = [taken for each in self._so_far() for taken in each.steps]
        return [
            EditReport(
                num_edits=1,
                num_steps=taken,
                final_loss=loss,
                counts={
                    "subject_absent": int(is_absent),
                    "covariance_from_samples": int(is_sampled),
                },
            )
            for loss, taken, is_absent in zip(losses, steps, self.rows.absent, strict=True)
        ]

    def store(self, state: State) -> None:
        """Add to a method's state what this batch needs to go on."""
        state.nest("batch", batch_state(self.batch))
        state.nest("optimisation", self._optimisation.state())
        state.nest("vectors", self._vectors.state())
        if self._found:
            tensors = {
                name: torch.cat([getattr(each, name) for each in self._found]) for name in _TENSORS
            }
            steps: list[Json] = [taken for each in self._found for taken in each.steps]
            state.nest("found", State(tensors, {"steps": steps}))

    def resume(self, state: State) -> None:
        """Go on with what `store` wrote."""
        vectors = state.inner("vectors")
        if "found" in state.values:
            found = state.inner("found")
            steps: Any = found.values["steps"]
            base, delta, losses = (
                found.tensors[name].to(self._backbone.device) for name in _TENSORS
            )
            self._found = [_Found(base, delta, losses, list(steps))]
        self._begin(len(vectors.tensors["delta"]))
        self._vectors.load(vectors)
        self._optimisation.load(state.inner("optimisation"))

    @property
    def _num_found(self) -> int:
        return sum(len(each.steps) for each in self._found)

    def _so_far(self) -> list[_Found]:
        now = self._vectors
        return [*self._found, _Found(now.base, now.delta.detach(), now.losses, now.steps)]

    def _begin(self, num_edits: int) -> None:
        """Set up the vectors of the next edits."""
        first, search = self._num_found, self._search
        is_all = num_edits == len(self.batch)
        part = self.batch if is_all else self.batch.part(first, first + num_edits)
        rows = self.rows if is_all else self._rows_of(part)
        with self._within(rows.tokens):
            self._vectors = SubjectVectors(self._backbone, self._layer, rows, search.settings)
        self._optimisation = Optimisation(
            {"delta": self._vectors.delta},
            self._vectors.loss,
            OptimiserSettings("adam", search.v_lr, search.v_num_steps, search.settings.stop_loss),
            agreed=self._backbone.micro_batch.agreed,
            after_step=self._vectors.project,
            num_losses=num_edits,
        )

    def _rows_of(self, batch: EditBatch) -> SubjectRows:
        return subject_rows(
            self._backbone,
            batch,
            self._contexts,
            with_kl=self._search.settings.kl_weight > 0,
            kl_position=self._search.kl_position,
        )


_TENSORS = ("base", "delta", "losses")


@torch.no_grad()
def spread(
    backbone: Backbone, run: VectorRun, layers: Sequence[int]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """What each layer's output projection should give at the subjects, the lowest layer first.

    The caller writes a projection before it asks for the next one, so that later layers see the
    change. The residual is what is left of the vectors, divided by the number of layers still to
    come, this one included.

    Args:
        backbone: Being edited.
        run: Its vectors, found behind the last of `layers`.
        layers: In ascending order.

    Yields:
        A layer, its keys K (F, N) and residuals R (D, N), both float64.
    """
    wanted = run.base + run.delta
    for index, layer in enumerate(layers):
        keys, states = keys_and_states(backbone, run.rows, layer, layers[-1])
        residuals = (wanted - states).double() / (len(layers) - index)
        yield layer, keys.double().T, residuals.T


def least_squares_update(keys: Tensor, residuals: Tensor, old: Tensor) -> Tensor:
    """Change of the weight (D, F): R X^T with (old + K K^T) X = K, MEMIT's closed form.

    Args:
        keys: K, (F, N) float64.
        residuals: R, (D, N) float64: what the outputs at those keys should gain.
        old: (F, F) float64: cov_weight * C, and what else is to be kept.
    """
    solution: Tensor = torch.linalg.solve(ridged(old) + keys @ keys.T, keys)
    return residuals @ solution.T


def check_listed(layers: Sequence[int]) -> None:
    """Refuse `method.layers` that names no layer, or one twice.

    Raises:
        ConfigError: If it does.
    """
    if not layers or min(layers) < 0:
        raise ConfigError(f"method.layers is {list(layers)}; name at least one, from 0")
    if len(set(layers)) < len(layers):
        raise ConfigError(f"method.layers is {list(layers)}; a layer stands there twice")


def below_last(layers: Sequence[int], num_layers: int) -> list[int]:
    """`layers` in ascending order, if the last one of the backbone is not among them.

    Nothing behind that layer carries a subject's state to the answer.

    Raises:
        ConfigError: If it is.
    """
    ascending = sorted(layers)
    if ascending[-1] > num_layers - 2:
        raise ConfigError(
            f"method.layers is {list(layers)}; allowed: 0 to {num_layers - 2}, "
            f"the last of {num_layers} layers excluded"
        )
    return ascending
