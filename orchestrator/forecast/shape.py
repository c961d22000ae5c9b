"""The sizes of a backbone that costs depend on, counted from its YAML; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.planning.families import get_family

GIB = 2**30  # bytes
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_VOCABULARY = 32_000  # where only a shape is known


@dataclass(frozen=True)
class Shape:
    """The sizes of a backbone that a cost depends on.

    Attributes:
        bytes_each: Bytes of one weight, in the dtype that is run.
        numbers_kept: Numbers that one layer keeps per token for the backward pass, with its weights
            frozen.
    """

    num_layers: int
    width: int
    ffn: int
    vocabulary: int
    layer: int
    num_parameters: int
    bytes_each: int
    numbers_kept: int

    @classmethod
    def of_backbone(cls, backbone: Mapping[str, Any]) -> Shape:
        """The shape that a backbone's YAML, or the config.json of its folder, gives."""
        width, ffn = int(backbone["hidden_size"]), int(backbone["ffn_size"])
        return cls(
            int(backbone["num_layers"]),
            width,
            ffn,
            int(backbone.get("vocabulary_size") or _VOCABULARY),
            layer_parameters(backbone),
            num_parameters(backbone),
            _BYTES[backbone.get("dtype") or "float32"],
            8 * width + num_ffn_matrices(backbone) * ffn,
        )

    @property
    def projection(self) -> int:
        """Weights of one FFN output projection."""
        return self.width * self.ffn

    @property
    def is_narrow(self) -> bool:
        """Whether weights have fewer bits than the float32 in which they are trained."""
        return self.bytes_each < 4

    @property
    def weights_gib(self) -> float:
        """Memory of all weights in the dtype that is run, whatever the dtype of their file."""
        return self.num_parameters * self.bytes_each / GIB


def layer_parameters(backbone: Mapping[str, Any]) -> int:
    """Parameters of one decoder layer: 4 attention matrices, and 2 of the FFN, 3 with a gate."""
    width, ffn = int(backbone["hidden_size"]), int(backbone["ffn_size"])
    return 4 * width * width + num_ffn_matrices(backbone) * width * ffn


def num_parameters(backbone: Mapping[str, Any]) -> int:
    """Parameters as the YAML states them, else those of all layers and one embedding."""
    if stated := backbone.get("num_parameters"):
        return int(stated)
    vocabulary = int(backbone.get("vocabulary_size") or _VOCABULARY)
    layers = int(backbone["num_layers"]) * layer_parameters(backbone)
    return layers + vocabulary * int(backbone["hidden_size"])


def num_ffn_matrices(backbone: Mapping[str, Any]) -> int:
    """Two, up and down, if the family is not stated."""
    family = backbone.get("family")
    return 2 if family is None else get_family(family).num_ffn_matrices
