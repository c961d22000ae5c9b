"""One trial out of layers: which value holds, where it came from, and what it is on this backbone."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.backbones import EMBEDDED, read_backbone
from orchestrator.config import COMMAND_LINE, Protocol, SweepConfig
from orchestrator.errors import UsageError
from orchestrator.spaces import unknown

DEPTH_FIELDS = ("edit_layer", "layers")
WIDTH_FIELDS = ("lora_rank",)
# Keys of a method's YAML that are not fields of its Config.
HEADER = ("name", "module", "published_on", "order", "presets", "cost")


@dataclass(frozen=True)
class Origin:
    """Where a value came from; `published` is what was written there, if the backbone's depth or width changed it."""

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
        published: Values per swept key that this cell stands for, in the units of the published table;
            several where depth or width made them equal. `protocol.num_edits` also where it was cut down.
        origins: Source of every value by dotted key; not part of the identity.
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

    def to_dict(self) -> dict[str, Any]:
        """All fields but the origins, as JSON."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        del values["origins"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialSpec:
        """The spec that `to_dict` wrote."""
        return cls(**values)

    def value(self, key: str) -> Any:
        """Value of a dotted key, or the name for a bare `method`, `backbone` or `dataset`.

        Raises:
            KeyError: If this trial has no such key.
        """
        part, _, name = key.partition(".")
        if part not in ("method", "backbone", "dataset", "protocol"):
            raise KeyError(key)
        return getattr(self, part)[name or "name"]


@dataclass(frozen=True)
class Swept:
    """A value set by an axis or an arm; `source` names which, `own_units` says that nothing is scaled."""

    value: Any
    source: str
    own_units: bool = False


class Resolver:
    """Makes trials of one sweep; keeps what it has resolved, as a plan shares most of it."""

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        self._parts: dict[str, tuple[dict[str, Any], dict[str, Origin]]] = {}
        self._methods: dict[tuple[str, int], tuple[dict[str, Any], dict[str, Origin]]] = {}
        self._protocols: dict[str, tuple[dict[str, Any], dict[str, Origin]]] = {}

    def trial(self, values: Mapping[str, Swept], seed: int, arm: str) -> TrialSpec:
        """The trial in which `values` hold above everything else.

        Raises:
            UsageError: For an unknown name or a value of the wrong kind.
        """
        backbone, origins = self._part("backbone", values)
        dataset, dataset_origins = self._part("dataset", values)
        method, method_origins, order = self._method(values, backbone)
        origins = {**origins, **dataset_origins, **method_origins}
        protocol, protocol_origins = self._cached_protocol(values, dataset, order)
        origins.update(protocol_origins)
        spec = TrialSpec(
            self.config.ablation, arm, seed, method, backbone, dataset, protocol, {}, {}, origins
        )
        for key, swept in values.items():
            try:
                spec.swept[key] = spec.value(key)
            except KeyError:
                continue  # an axis of another arm's method
            if not swept.own_units:
                spec.published[key] = [swept.value]
        for key in ("protocol.num_edits", "protocol.edit_batch_size"):
            if (cut := origins.get(key)) and cut.published is not None:
                spec.published.setdefault(key, [cut.published])
        return spec

    def method_fields(self, name: str) -> dict[str, Any]:
        """Fields of the Config of arm `name` with their defaults as published."""
        loaded = self.config.spaces.load("method", name)
        return {key: value for key, value in loaded.items() if key not in HEADER}

    def _choice(self, group: str, values: Mapping[str, Swept]) -> str:
        return str(values[group].value) if group in values else self.config.choices[group]

    def _layered(self, part: str, values: Mapping[str, Swept]) -> Iterator[tuple[str, str, Any, Swept | None]]:
        """(source, field, value, axis) of `part` above its file, weakest first."""
        prefix = f"{part}."
        for layer in self.config.layers:
            for key, value in layer.values.items():
                if key.startswith(prefix):
                    yield layer.source, key.removeprefix(prefix), value, None
        for key, swept in values.items():
            if key.startswith(prefix):
                yield swept.source, key.removeprefix(prefix), swept.value, swept

    def _part(self, part: str, values: Mapping[str, Swept]) -> tuple[dict[str, Any], dict[str, Origin]]:
        """The backbone or data set, with origins."""
        name = self._choice(part, values)
        swept = {key: value for key, value in values.items() if key.startswith(f"{part}.")}
        key = f"{part} {name} {swept or ''}"
        if key not in self._parts:
            layered = list(self._layered(part, swept))
            resolved = {"name": name, **self.config.spaces.load(part, name)}
            is_embedded = str(resolved.get("model")).startswith(EMBEDDED)
            origins = {f"{part}.{field}": Origin(f"{part} {name}") for field in resolved}
            for source, name_, value, _ in layered:
                if name_ not in resolved:
                    raise unknown(f"{part}.{name_}={value}", name_, resolved)
                resolved[name_] = _of_kind(f"{part}.{name_}", value, resolved[name_])
                origins[f"{part}.{name_}"] = Origin(source)
            if part == "backbone":
                origins.update(read_backbone(resolved, origins, is_embedded))
            else:
                _check_dataset(resolved)
            self._parts[key] = resolved, origins
        return self._parts[key]

    def _method(
        self, values: Mapping[str, Swept], backbone: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Origin], str | None]:
        """The method's name, module and fields on this backbone, their origins, its own order."""
        name = self._choice("method", values)
        loaded = self.config.spaces.load("method", name)
        # id: the backbone is kept in `_parts`, so that no other one takes its place
        if (name, id(backbone)) not in self._methods:
            self._methods[name, id(backbone)] = self._unswept_method(name, loaded, backbone)
        method, origins = (dict(part) for part in self._methods[name, id(backbone)])
        for key, swept in values.items():
            field_name = key.removeprefix("method.")
            if not key.startswith("method.") or field_name not in loaded:
                continue  # the field of another arm's method; `plan` checks that one of them has it
            units = None if swept.own_units else self.config.published_on or loaded.get("published_on")
            typed = _of_kind(key, swept.value, loaded[field_name])
            method[field_name] = self.scaled(field_name, typed, units, backbone)
            changed = method[field_name] != typed
            origins[key] = Origin(swept.source, typed if changed else None)
        return method, origins, loaded.get("order")

    def _unswept_method(
        self, name: str, loaded: Mapping[str, Any], backbone: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Origin]]:
        """The method as all layers below the axes make it, and its origins."""
        home = loaded.get("published_on")
        fields = {key: value for key, value in loaded.items() if key not in HEADER}
        # field -> (value, source, backbone of the units, or None for this one)
        held: dict[str, tuple[Any, str, str | None]] = {
            key: (value, f"method {name}", home) for key, value in fields.items()
        }
        preset_source, preset = self._preset(loaded, backbone)
        for key, value in preset.items():
            if key not in fields:
                raise unknown(f"presets of method {name}: {key}", key, fields)
            held[key] = (value, preset_source, None)
        for source, key, value, _ in self._layered("method", {}):
            if key in fields:
                units = None if source == COMMAND_LINE else self.config.published_on or home
                held[key] = (_of_kind(f"method.{key}", value, fields[key]), source, units)
        method: dict[str, Any] = {"name": name, "module": loaded.get("module", name)}
        origins = {"method.name": Origin(f"method {name}")}
        for key, (value, source, units) in held.items():
            scaled = self.scaled(key, value, units, backbone)
            method[key] = scaled
            origins[f"method.{key}"] = Origin(source, value if scaled != value else None)
        return method, origins

    def _preset(self, loaded: Mapping[str, Any], backbone: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The preset for this backbone: of this paper's table, else of the paper, else the default."""
        presets = (loaded.get("presets") or {}).get(backbone["name"]) or {}
        paper = self.config.paper or ""
        for key in (paper, paper.partition("_table")[0].partition("_figure")[0], "default"):
            if key and presets.get(key):
                return f"preset {backbone['name']}/{key}", presets[key]
        return "", {}

    def scaled(self, name: str, value: Any, units: str | None, backbone: Mapping[str, Any]) -> Any:
        """`value` of field `name`, written for backbone `units`, on `backbone`: by depth or by width."""
        if value is None or units is None or units == backbone["name"]:
            return value
        if name in DEPTH_FIELDS:
            depth, published = int(backbone["num_layers"]), self._shape(units, "num_layers")
            if isinstance(value, list):
                # dict: two published layers may fall on one
                return list(dict.fromkeys(_scaled_layer(layer, depth, published) for layer in value))
            return _scaled_layer(value, depth, published)
        if name in WIDTH_FIELDS:
            return max(1, _nearest(value * int(backbone["hidden_size"]) / self._shape(units, "hidden_size")))
        return value

    def _shape(self, backbone: str, name: str) -> int:
        return int(self.config.spaces.load("backbone", backbone)[name])

    def _cached_protocol(
        self, values: Mapping[str, Swept], dataset: Mapping[str, Any], order: str | None
    ) -> tuple[dict[str, Any], dict[str, Origin]]:
        swept = {key: value for key, value in values.items() if key.startswith("protocol.")}
        key = f"{swept} {id(dataset)} {order}"
        if key not in self._protocols:
            self._protocols[key] = self._protocol(swept, dataset, order)
        return self._protocols[key]

    def _protocol(
        self, values: Mapping[str, Swept], dataset: Mapping[str, Any], order: str | None
    ) -> tuple[dict[str, Any], dict[str, Origin]]:
        """The protocol with every default filled in, cut to what the data set can feed."""
        protocol = self.config.protocol
        origins = {f"protocol.{key}": Origin("config.yaml") for key in Protocol.model_fields}
        changes: dict[str, Any] = {}
        for source, key, value, axis in self._layered("protocol", values):
            origins[f"protocol.{key}"] = Origin(source)
            if axis is not None:
                changes[key] = value
        if changes:
            try:
                protocol = Protocol(**{**protocol.model_dump(), **changes})
            except ValidationError as error:
                first = error.errors()[0]
                path = ".".join(str(part) for part in first["loc"])
                raise UsageError(f"axis protocol.{path}={first['input']}: {first['msg']}") from error
        is_stream = protocol.kind == "lifelong"
        if not is_stream and protocol.order not in (None, "given"):
            raise UsageError(
                f"protocol.order={protocol.order}: protocol.kind={protocol.kind} rolls back after every batch, "
                "so that no order matters; it is for protocol.kind=lifelong"
            )
        own = order if is_stream else None
        if protocol.order is None:
            origins["protocol.order"] = Origin("the method's own" if own else "default")
        resolved = {**protocol.model_dump(), **_batches(protocol)}
        resolved["order"] = protocol.order or own or "given"
        limit = _limit(dataset)
        if limit is not None and _total(resolved) > limit:
            if origins["protocol.num_edits"].source == COMMAND_LINE:
                raise UsageError(
                    f"protocol.num_edits={protocol.num_edits}: data set {dataset['name']!r}, part "
                    f"{dataset.get('part')!r}, can feed {limit} edits at most"
                )
            cut = {**resolved, **_cut(resolved, limit)}
            for key in ("num_edits", "edit_batch_size"):
                if cut[key] != resolved[key]:
                    origins[f"protocol.{key}"] = Origin(f"all that {dataset['name']} can feed", resolved[key])
            resolved = cut
        return resolved, origins


def check_ranges(spec: TrialSpec) -> None:
    """Raises UsageError if a layer, rank or count of the method does not fit its backbone."""
    method, backbone = spec.method, spec.backbone
    depth, width = int(backbone["num_layers"]), int(backbone["hidden_size"])
    layers = [("edit_layer", method.get("edit_layer"))]
    layers += [("layers", layer) for layer in method.get("layers") or []]
    for name, layer in layers:
        if isinstance(layer, int) and not 0 <= layer < depth:
            raise UsageError(
                f"method.{name}={layer}: backbone {backbone['name']!r} has layers 0 to {depth - 1}"
            )
    for name, value in method.items():
        if _is_count(name) and isinstance(value, int) and value < 1:
            raise UsageError(f"method.{name}={value}: must be at least 1")
    rank = method.get("lora_rank")
    if isinstance(rank, int) and rank > width:
        raise UsageError(
            f"method.lora_rank={rank}: backbone {backbone['name']!r} is {width} wide; allowed: 1 to {width}"
        )
    top_k, experts = method.get("top_k"), method.get("num_experts")
    if isinstance(top_k, int) and isinstance(experts, int) and top_k > experts:
        raise UsageError(f"method.top_k={top_k}: must lie in 1 to method.num_experts={experts}")


def _check_dataset(dataset: dict[str, Any]) -> None:
    """Makes `path` absolute; a data set read from a file must name one that is there."""
    typed = dataset.get("path")
    if typed is not None:
        path = Path(str(typed)).expanduser().absolute()
        if not path.exists():
            raise UsageError(f"dataset.path={typed}: there is no such file")
        dataset["path"] = str(path)
    elif dataset.get("source") == "file":
        raise UsageError(f"dataset={dataset['name']} is read from a file: add dataset.path=FILE")
    if dataset.get("part", "report") not in ("tune", "report"):
        raise UsageError(f"dataset.part={dataset['part']}: allowed: tune, report")


def _batches(protocol: Protocol) -> dict[str, int]:
    """Edit batch size and number of batches, each from the other where one is left open."""
    edits, size, batches = protocol.num_edits, protocol.edit_batch_size, protocol.num_batches
    if protocol.kind == "batch":
        if size not in (None, edits):
            raise UsageError(
                f"protocol.edit_batch_size={size}: with protocol.kind=batch it is protocol.num_edits={edits}; "
                "give protocol.num_batches for the batches averaged"
            )
        return {"edit_batch_size": edits, "num_batches": batches or 1}
    if protocol.kind == "single":
        if size not in (None, 1) or batches not in (None, edits):
            raise UsageError(
                "protocol.kind=single takes one edit at a time: leave edit_batch_size and num_batches out"
            )
        return {"edit_batch_size": 1, "num_batches": edits}
    if (size or 1) > edits or (batches or 1) > edits:
        key = "edit_batch_size" if (size or 1) > edits else "num_batches"
        raise UsageError(f"protocol.{key}={size or batches}: must lie in 1 to protocol.num_edits={edits}")
    if size is None:
        size = math.ceil(edits / batches) if batches else 1
    implied = math.ceil(edits / size)
    if protocol.edit_batch_size is not None and batches not in (None, implied):
        raise UsageError(
            f"protocol.num_batches={batches}: protocol.edit_batch_size={size} cuts {edits} edits into {implied}"
        )
    return {"edit_batch_size": size, "num_batches": implied}


def _total(protocol: Mapping[str, Any]) -> int:
    """Edits drawn in all."""
    rolled_back = protocol["num_batches"] if protocol["kind"] == "batch" else 1
    return int(protocol["num_edits"] * rolled_back)


def _cut(protocol: Mapping[str, Any], limit: int) -> dict[str, int]:
    """The protocol's counts within `limit` edits; a stream keeps its number of batches."""
    edits = min(int(protocol["num_edits"]), limit)
    if protocol["kind"] == "batch":
        return {"num_edits": edits, "edit_batch_size": edits, "num_batches": max(1, limit // edits)}
    batches = min(int(protocol["num_batches"]), edits)
    size = math.ceil(edits / batches) if protocol["edit_batch_size"] > 1 else 1
    return {"num_edits": edits, "edit_batch_size": size, "num_batches": math.ceil(edits / size)}


def _limit(dataset: Mapping[str, Any]) -> int | None:
    """Edits that the part of the data set can feed; None if it does not say."""
    limit = dataset.get("max_edits")
    if isinstance(limit, dict):
        limit = limit.get(dataset.get("part", "report"))
    return None if limit is None else int(limit)


def _nearest(value: float) -> int:
    return math.floor(value + 0.5)  # round() takes halves to the even number: 1.5 and 2.5 both to 2


def _scaled_layer(layer: int, depth: int, published: int) -> int:
    return min(depth - 1, _nearest(layer * depth / published))


def _is_count(name: str) -> bool:
    return name.startswith("num_") or name in ("top_k", "lora_rank", "experts_per_batch")


def _of_kind(key: str, value: Any, default: Any) -> Any:
    """`value`, if it is of the kind of `default`.

    Raises:
        UsageError: Otherwise.
    """
    name = key.rpartition(".")[2]
    if value is None or default is None:
        return value
    if isinstance(default, bool):
        kind, fits = "true or false", isinstance(value, bool)
    elif isinstance(default, int | float):
        whole = _is_count(name) or name in DEPTH_FIELDS or name in ("num_layers", "hidden_size", "ffn_size")
        number = int if whole else int | float
        kind = "a whole number" if whole else "a number"
        fits = isinstance(value, number) and not isinstance(value, bool) and math.isfinite(value)
    elif isinstance(default, list):
        kind, fits = "a list, [...]", isinstance(value, list)
        if fits and default and isinstance(default[0], int):
            value = [_of_kind(key, item, default[0]) for item in value]
    elif isinstance(default, dict):
        kind, fits = "a mapping, {...}", isinstance(value, dict)
    else:
        kind, fits = "a word", isinstance(value, str)
    if not fits:
        raise UsageError(f"{key}={json.dumps(value, default=str)}: must be {kind}, as in {default!r}")
    return value
