"""Edits of ROME whose vectors are being found, and the change that each of them writes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.backbones.hidden_states.subject_vectors import SubjectVectors
from trainables.errors import EditDiverged
from trainables.interfaces import EditBatch, EditReport, State
from trainables.optimise import Optimisation
from trainables.prompts import batch_state


@dataclass(frozen=True)
class Finding:
    """N edits, whose vectors are found on one weight; none of them sees what another writes.

    Attributes:
        batch: The edits.
        vectors: Their deltas.
        optimisation: The loop that finds them.
        mean_keys: k of each edit, (N, F) float32.
        keys: k', (N, F) float32.
        gaps: v - W k', (N, D) float32; 0 where k' is the key of the bare prompt.
    """

    batch: EditBatch
    vectors: SubjectVectors
    optimisation: Optimisation
    mean_keys: Tensor
    keys: Tensor
    gaps: Tensor

    def is_found(self, number: int) -> bool:
        """Whether the vector of an edit does not move any more."""
        return self.optimisation.is_done or self.vectors.is_settled(number)

    @torch.no_grad()
    def change(self, number: int, factors: tuple[Tensor, Tensor] | None) -> Tensor:
        """Change of the weight by which an edit's key gives its v*, (D, F) float64.

        Args:
            number: Of the edit.
            factors: Of C, float64, as of `torch.linalg.lu_factor`; None: C is the identity.

        Raises:
            EditDiverged: If it is not finite.
        """
        key = self.mean_keys[number].double()
        direction = key if factors is None else torch.linalg.lu_solve(*factors, key[:, None])[:, 0]
        residual = (self.gaps[number] + self.vectors.delta.detach()[number]).double()
        change = rank_one_update(self.keys[number].double(), residual, direction)
        if not bool(torch.isfinite(change).all()):
            prompt = self.batch.edits[number].prompt
            raise EditDiverged(f"the change of the weight for {prompt!r} is not finite")
        return change

    def report(self, number: int, *, is_sampled: bool) -> EditReport:
        """How an edit went; `is_sampled`: the backbone itself sampled the text of C."""
        return EditReport(
            num_edits=1,
            num_steps=self.vectors.steps[number],
            final_loss=float(self.vectors.losses[number]),
            counts={
                "subject_absent": int(self.vectors.rows.absent[number]),
                "covariance_from_samples": int(is_sampled),
            },
        )

    def state(self) -> State:
        """The batch and its vectors."""
        state = State()
        state.nest("batch", batch_state(self.batch))
        state.nest("vectors", self.vectors.state())
        state.nest("optimisation", self.optimisation.state())
        return state

    def resume(self, state: State) -> None:
        """Go on with the vectors of `state`, which is of the same batch."""
        self.vectors.load(state.inner("vectors"))
        self.optimisation.load(state.inner("optimisation"))


def rank_one_update(key: Tensor, residual: Tensor, direction: Tensor) -> Tensor:
    """Change of the weight (D, F) that adds `residual` (D,) to its output at `key` (F,).

    That is residual u^T / (key . u) with u the `direction` (F,): outputs at keys across u stay.
    """
    return torch.outer(residual, direction / (key @ direction))
