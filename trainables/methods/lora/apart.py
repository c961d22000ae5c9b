"""Edits that are each rolled back, trained side by side: each has low-rank maps of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainables.interfaces import EditBatch, EditReport, State
from trainables.methods.lora.low_rank import LowRankMaps
from trainables.optimise import Optimisation, OptimiserSettings
from trainables.prompts import batch_state


class MapsApart:
    """The maps of N edits, in stacks that one Adam trains: it acts on each number alone.

    An edit is done when its loss is low: its maps are put aside, and its row runs no more. What
    Adam's momentum does to its part of the stacks is not read.
    """

    def __init__(
        self,
        batch: EditBatch,
        maps: LowRankMaps,
        losses: Callable[[Tensor], Tensor],
        settings: OptimiserSettings,
        agreed: Callable[[Tensor], Tensor],
    ) -> None:
        """Start each edit's maps where those of `maps` are.

        Args:
            batch: The edits.
            maps: Attached, and not trained themselves.
            losses: Losses, (n,), of the edits with these numbers, (n,) on the host; the same tensor
                until one of them is done.
            settings: Of the optimiser; each edit stops at `stop_loss` by itself.
            agreed: As of `Optimisation`.
        """
        self.batch = batch
        self._maps, self._losses, self._agreed = maps, losses, agreed
        self._stop_loss = settings.stop_loss
        self.stacks = {
            name: nn.Parameter(start.expand(len(batch), *start.shape).clone())
            for name, start in maps.tensors().items()
        }
        self._learned: dict[int, dict[str, Tensor]] = {}  # the maps of edits that are done
        self._running: tuple[Tensor, Tensor] | None = None  # the others, on the host and beside
        self._last = [0.0] * len(batch)
        self._steps = [0] * len(batch)
        each = OptimiserSettings(settings.name, settings.edit_lr, settings.num_steps)
        self.optimisation = Optimisation(
            self.stacks,
            self._loss,
            each,
            after_step=self._count,
            is_learned=lambda: len(self._learned) == len(batch),
            num_losses=len(batch),
        )

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` steps of each edit; True when all are done."""
        try:
            return self.optimisation.advance(max_steps)
        finally:
            self._maps.set_together()

    def take(self, number: int) -> None:
        """Put the maps of one edit in place."""
        self._maps.set(self._learned.get(number) or self._of(number))

    def reports(self) -> list[EditReport]:
        """How each edit went."""
        return [
            EditReport(num_edits=1, num_steps=steps, final_loss=loss)
            for steps, loss in zip(self._steps, self._last, strict=True)
        ]

    def state(self) -> State:
        """What these edits need to go on."""
        state = State({name: stack.detach() for name, stack in self.stacks.items()})
        state.values |= {"steps": list(self._steps), "losses": list(self._last)}
        state.values["learned"] = list(self._learned)
        for number, tensors in self._learned.items():
            state.tensors |= {f"learned/{number}/{name}": each for name, each in tensors.items()}
        state.nest("batch", batch_state(self.batch))
        state.nest("optimisation", self.optimisation.state())
        return state

    @torch.no_grad()
    def resume(self, state: State) -> None:
        """Go on with what `state` holds of the same batch."""
        values: Any = state.values
        self._steps, self._last = list(values["steps"]), list(values["losses"])
        for name, stack in self.stacks.items():
            stack.copy_(state.tensors[name])
        self._learned = {
            number: {
                name: state.tensors[f"learned/{number}/{name}"].to(stack).clone()
                for name, stack in self.stacks.items()
            }
            for number in values["learned"]
        }
        self._running = None
        self.optimisation.load(state.inner("optimisation"))

    def _loss(self) -> Tensor:
        """Sum of the losses of the edits that go on: each gets the gradient it would get alone."""
        if self._running is None:
            others = [number for number in range(len(self.batch)) if number not in self._learned]
            host = torch.tensor(others)
            self._running = host, host.to(self.batch.tokens.input_ids.device)
        numbers, edits = self._running
        self._maps.set_apart(self.stacks, edits)  # also where rows run once more on the way back
        losses = self._losses(numbers)
        values = self._agreed(losses.detach()).tolist()
        going = []
        for place, (number, value) in enumerate(zip(numbers.tolist(), values, strict=True)):
            self._last[number] = value
            if self._stop_loss is not None and value < self._stop_loss:
                self._learned[number], self._running = self._of(number), None
            else:
                going.append(losses[place])
        return torch.stack(going).sum() if going else losses.sum().detach() * 0

    def _count(self) -> None:
        self._steps = [
            steps + (number not in self._learned) for number, steps in enumerate(self._steps)
        ]

    def _of(self, number: int) -> dict[str, Tensor]:
        return {name: stack.detach()[number].clone() for name, stack in self.stacks.items()}
