"""The specification of one trial, which the plan makes and everything else reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LAYER_LISTS = ("layers", "gate_layers")
DEPTH_FIELDS = ("edit_layer", *LAYER_LISTS)
WIDTH_FIELDS = ("lora_rank",)
# Keys of a method's YAML that are not fields of its Config.
HEADER = (
    *("name", "module", "published_on", "order", "batches"),
    *("presets", "presets_from", "printed", "cost", "tune"),
)
# Values of a serial protocol that are left out where they hold, so that trials from before the key
# was there keep their names.
LEFT_OUT: Mapping[str, Any] = {"update_order": "rounds"}
# What `TrialSpec.to_dict` writes.
_PARTS = ("method", "backbone", "dataset", "protocol", "swept", "published", "evaluate")
_KINDS: dict[str, type] = {"ablation": str, "arm": str, "seed": int, **dict.fromkeys(_PARTS, dict)}


@dataclass(frozen=True)
class Origin:
    """Where a value came from; `published` is the value there, if it was scaled or reduced."""

    source: str
    published: Any = None


@dataclass(frozen=True)
class TrialSpec:
    """One arm with one seed: everything that a trial needs to know.

    Attributes:
        arm: Readable label, equal for all seeds, unique within the plan.
        method: `name`, `module` and the fields of the method's Config.
        backbone: The backbone's YAML after all overrides.
        dataset: The data set's YAML after all overrides.
        protocol: The protocol with every default filled in.
        swept: Value per swept key (`arm`: name of a named arm), in the backbone's own units.
        published: Values per swept key that this cell stands for, in the units of the published
            table; several if depth or width made them equal. Also `protocol.num_edits` if it was
            reduced.
        origins: Source of every value by dotted key; not part of the identity.
        cost: The `cost` of the method's and the data set's YAML, which only the forecast reads; not
            part of the identity either.
        evaluate: What is asked beside the edits' own questions; empty without any. The identity
            holds a hash of the tasks instead.
    """

    ablation: str
    arm: str
    seed: int
    method: dict[str, Any]
    backbone: dict[str, Any]
    dataset: dict[str, Any]
    protocol: dict[str, Any]
    swept: dict[str, Any]
    published: dict[str, list[Any]] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict, compare=False)
    cost: dict[str, Any] = field(default_factory=dict, compare=False)
    evaluate: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All fields but the origins and the cost, as JSON."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        del values["origins"], values["cost"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialSpec:
        """The spec that `to_dict` wrote; keys that a later version adds are left out.

        Raises:
            ValueError: If a key is missing, or its value is of another kind.
        """
        told = {"published": {}, "evaluate": {}, **values}
        for name, kind in _KINDS.items():
            if type(told.get(name)) is not kind:
                raise ValueError(f"spec.{name} is {told.get(name)!r}, no {kind.__name__}")
        return cls(**{name: told[name] for name in _KINDS})

    def value(self, key: str) -> Any:
        """The value of a dotted key; for `method`, `backbone` or `dataset` alone, the name.

        Raises:
            KeyError: If this trial has no such key.
        """
        part, _, name = key.partition(".")
        if part not in ("method", "backbone", "dataset", "protocol"):
            raise KeyError(key)
        held: Mapping[str, Any] = getattr(self, part)
        if part == "protocol" and held["kind"] == "serial":
            held = {**LEFT_OUT, **held}
        return held[name or "name"]


@dataclass(frozen=True)
class Swept:
    """A value that an axis or arm sets; `source` names which. With `own_units` it is not scaled."""

    value: Any
    source: str
    own_units: bool = False
