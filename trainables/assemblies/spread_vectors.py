"""Finds vectors for a batch of facts, and spreads them over the output projections of some layers.

Source: MEMIT (Meng et al., arXiv:2210.07229), whose two steps its relatives share; they differ in
how the change of one projection is solved for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.backbones.hidden_states.covariance import ridged
from trainables.backbones.hidden_states.subject_rows import KlPosition, subject_rows
from trainables.backbones.hidden_states.subject_vectors import (
    SubjectVectors,
    VectorSettings,
    keys_and_states,
)
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, EditBatch, EditReport, PromptBatch, State
from trainables.optimise import BatchRun, Optimisation, OptimiserSettings


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


@dataclass
class VectorRun:
    """A batch under way, and the vectors that it trains."""

    work: BatchRun
    vectors: SubjectVectors

    def report(self, is_sampled: bool) -> EditReport:
        """The report of the batch.

        Args:
            is_sampled: Whether the backbone itself sampled the text of its second moments.
        """
        self.work.counts = {
            "subject_absent": self.vectors.rows.num_absent,
            "covariance_from_samples": int(is_sampled),
        }
        report = self.work.report()
        return EditReport(
            report.num_edits,
            report.num_steps,
            final_loss=float(self.vectors.losses.mean()),
            counts=report.counts,
        )

    def reports(self, is_sampled: bool) -> list[EditReport]:
        """As `report`, of each edit by itself."""
        vectors = self.vectors
        return [
            EditReport(
                num_edits=1,
                num_steps=vectors.steps[number],
                final_loss=float(loss),
                counts={
                    "subject_absent": int(vectors.rows.absent[number]),
                    "covariance_from_samples": int(is_sampled),
                },
            )
            for number, loss in enumerate(vectors.losses)
        ]

    def store(self, state: State) -> None:
        """Add to a method's state what this batch needs to go on."""
        self.work.store(state)
        state.nest("vectors", self.vectors.state())

    def resume(self, state: State) -> None:
        """Go on with what `store` wrote."""
        self.vectors.load(state.inner("vectors"))
        self.work.resume(state)


def vector_run(
    backbone: Backbone,
    batch: EditBatch,
    contexts: Sequence[str],
    layer: int,
    search: Search,
    within: Callable[[PromptBatch], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> VectorRun:
    """One vector for each edit behind `layer`; no weight changes while they are looked for.

    Args:
        backbone: Being edited.
        batch: The edits.
        contexts: Prefixes of their prompts.
        layer: Decoder layer whose output the vectors are added to.
        search: How they are looked for.
        within: What surrounds the pass through the layers up to `layer`, given its rows.
    """
    settings = search.settings
    rows = subject_rows(
        backbone,
        batch,
        contexts,
        with_kl=settings.kl_weight > 0,
        kl_position=search.kl_position,
    )
    with within(rows.tokens):
        vectors = SubjectVectors(backbone, layer, rows, settings)
    optimisation = Optimisation(
        {"delta": vectors.delta},
        vectors.loss,
        OptimiserSettings("adam", search.v_lr, search.v_num_steps, settings.stop_loss),
        agreed=backbone.micro_batch.agreed,
        after_step=vectors.project,
    )
    return VectorRun(BatchRun(batch, optimisation), vectors)


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
    vectors = run.vectors
    wanted = vectors.base + vectors.delta.detach()
    for index, layer in enumerate(layers):
        keys, states = keys_and_states(backbone, vectors.rows, layer, layers[-1])
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
