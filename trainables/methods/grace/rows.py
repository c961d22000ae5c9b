"""A batch of GRACE's edits under way, and what is read of its rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from trainables.interfaces import EditBatch, EditReport, State
from trainables.methods.grace.codebook import Codebook
from trainables.optimise import Optimisation
from trainables.prompts import batch_state

COUNTERS = (
    *("next_row", "rows", "entries", "owners", "counts"),
    *("num_trained", "num_steps", "total_loss"),
)


@dataclass(frozen=True)
class Wave:
    """The edits that train now: the values (len(rows), D) of their entries (len(rows),)."""

    entries: Tensor
    values: nn.Parameter
    optimisation: Optimisation
    losses: Tensor  # of each row at the last step, (len(rows),)


@dataclass
class Run:
    """A batch under way. `rows` train at the same time, each its own of `entries`."""

    batch: EditBatch
    output: Tensor  # (B, T, D) of `Site.frozen`
    own: Tensor  # (B, T, D) of the projection
    keys: Tensor  # (B, F)
    outputs: Tensor  # (B, D) of the projection at the last prompt tokens
    is_right: list[bool]  # answers of the backbone without codebook
    next_row: int = 0
    rows: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)  # of the rows so far
    counts: dict[str, int] = field(default_factory=dict)
    num_trained: int = 0
    num_steps: int = 0
    total_loss: float = 0.0
    wave: Wave | None = None


@dataclass(frozen=True)
class Apart:
    """Edits side by side: each has a codebook of its own, those of `run.rows` an entry there.

    Attributes:
        changes: For each edit what its insertion did, or why there is none.
        start: The generator before the first value, which is each one's start.
    """

    run: Run
    codebooks: list[Codebook]
    changes: list[str]
    start: Tensor

    def reports(self) -> list[EditReport]:
        """What each edit did to its codebook, and took to train."""
        reports = [EditReport(1, counts={change: 1}) for change in self.changes]
        if (wave := self.run.wave) is not None:
            num_steps = wave.optimisation.steps_taken
            for row, loss in zip(self.run.rows, wave.losses.tolist(), strict=True):
                reports[row] = replace(reports[row], num_steps=num_steps, final_loss=loss)
        return reports

    def state(self) -> State:
        """What these edits need to go on."""
        state = State({"start": self.start})
        state.nest("batch", batch_state(self.run.batch))
        if (wave := self.run.wave) is not None:
            state.tensors["values"] = wave.values.detach()
            state.tensors["losses"] = wave.losses
            state.nest("optimisation", wave.optimisation.state())
        return state


def at(states: Tensor, columns: Tensor) -> Tensor:
    """One position of each row: (B, T, D) and (B,) -> (B, D)."""
    return states[torch.arange(len(states), device=states.device), columns]


def replaced(output: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """`output` (B, T, D) with row b's value (D,) at its `positions` (B, T)."""
    return torch.where(positions[..., None], values[:, None].to(output.dtype), output)


def all_right(said: Tensor, labels: Tensor, rows: Tensor) -> list[bool]:
    """Whether the likeliest token `said` at each scored position of a row is the label, by row."""
    wrong = (said != labels).long()
    misses = wrong.new_zeros(int(rows[-1]) + 1).index_add(0, rows, wrong)
    return (misses == 0).tolist()
