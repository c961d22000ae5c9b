"""Sizes of the networks of MEND and MALMEN, and of the weights that they change; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_GATED = 3  # matrices of an FFN with a gate


@dataclass(frozen=True)
class Networks:
    """What a method with `cost.trains: networks` trains and writes.

    Attributes:
        numbers: Trained numbers of all networks.
        modules: Weights that are changed.
        written: Numbers of all of these.
        largest: Numbers of the largest of them.
        joint: What one token brings to a network: sizes of a module's input and output together.
        passed: Multiplications of one token on its way through a network.
    """

    numbers: int
    modules: int
    written: int
    largest: int
    joint: int
    passed: int

    @classmethod
    def of(cls, method: Mapping[str, Any], width: int, ffn: int, num_matrices: int) -> Networks:
        """The sizes that `layers`, `modules`, `network_rank` and `num_blocks` give.

        `num_matrices`: of an FFN; a gate has the shape of `up` and shares its network.
        """
        named = set(method.get("modules") or ())
        layers = len(method.get("layers") or ())
        inward = ("up" in named) + ("gate" in named and num_matrices == _GATED)
        per_shape = [layers * count for count in (inward, int("down" in named)) if count]
        joint = width + ffn
        rank, blocks = min(int(method["network_rank"]), joint), int(method["num_blocks"])
        numbers = sum(
            blocks * joint * (2 * rank + 1 + 2 * modules) + 2 * modules for modules in per_shape
        )
        modules = sum(per_shape)
        written = modules * width * ffn
        return cls(numbers, modules, written, width * ffn, joint, blocks * 2 * rank * joint)

    @staticmethod
    def edits_of_training(method: Mapping[str, Any]) -> float:
        """Edits that all steps of the training make, if no step is spared."""
        per_step = int(method["edits_at_once"]) * int(method["problems_per_step"])
        return float(int(method["training_steps"]) * per_step)
