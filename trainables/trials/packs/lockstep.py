"""Takes the optimiser steps of several trials at once: one pass through their frozen layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from trainables.backbones.forward.passage import JointPass
from trainables.backbones.seen_apart import seen_apart
from trainables.interfaces import Backbone, EditMethod
from trainables.optimise import Optimisation
from trainables.parallel.out_of_memory import is_out_of_memory
from trainables.passing import PassingLoss

T = TypeVar("T")


class Run(Protocol):
    """A batch of edits under way."""

    @property
    def optimisation(self) -> Optimisation:
        """The loop that learns them; the method's `advance` does nothing else."""
        ...


@runtime_checkable
class Packable(Protocol):
    """An editor whose steps may be taken with those of other trials.

    One that trains the FFN's output projection of the edited layer itself, and no other weight of
    the backbone, says so by `trains_in_place`.
    """

    @property
    def run(self) -> Run | None:
        """The batch that one loop learns; None: there is none."""
        ...


def apart_for(method_class: object, backbone: Backbone, layer: int) -> Backbone:
    """The pristine `backbone` with a layer of its own, for a method's steps beside other trials."""
    owns_down = getattr(method_class, "trains_in_place", False)
    return seen_apart(backbone, layer, owns_down=owns_down)


def optimisation_of(method: EditMethod) -> Optimisation | None:
    """The loop of the batch under way, if its rows may pass the frozen layers with others."""
    run = method.run if isinstance(method, Packable) else None
    found = None if run is None else run.optimisation
    return found if found is not None and isinstance(found.loss, PassingLoss) else None


class Lockstep:
    """Optimisations of several trials; each stops, or fails, by itself.

    Attributes:
        failed: By the number of an optimisation, why it takes no further step.
    """

    def __init__(self, each: Sequence[Optimisation], passing: JointPass) -> None:
        """Nothing is computed yet.

        Args:
            each: Their losses are `PassingLoss`es, and no parameter has a part in two of them.
            passing: Through the frozen layers of all of them.
        """
        self._each, self._passing = each, passing
        self.failed: dict[int, Exception] = {}

    def step(self) -> None:
        """One step of each that is neither done nor has failed.

        Raises:
            Exception: If there is no telling whose it is, or if memory runs out.
        """
        numbers = [n for n, each in enumerate(self._each) if not each.is_done]
        begun = self._kept(numbers, lambda n: _passing(self._each[n]).begin())
        if not begun:
            return
        losses = self._passing.losses([*begun.values()])
        values = torch.stack([loss.detach() for loss in losses]).tolist()
        each = dict(zip(begun, zip(losses, values, strict=True), strict=True))
        goes_on = self._kept(each, lambda n: self._each[n].judge(each[n][1]))
        stepping: dict[int, Tensor] = {n: each[n][0] for n in goes_on if goes_on[n]}
        if not stepping:
            return
        for number in stepping:
            self._each[number].clear()
        torch.stack([*stepping.values()]).sum().backward()
        self._kept(stepping, lambda n: self._each[n].step())

    def _kept(self, numbers: Iterable[int], do: Callable[[int], T]) -> dict[int, T]:
        """What is done for each that does not fail, now or before."""
        found: dict[int, T] = {}
        for number in numbers:
            if number in self.failed:
                continue
            try:
                found[number] = do(number)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                self.failed[number] = error
        return found


def _passing(optimisation: Optimisation) -> PassingLoss:
    assert isinstance(optimisation.loss, PassingLoss)
    return optimisation.loss
