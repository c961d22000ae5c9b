"""Makes one trial: which value wins, where it came from, and what it is on this backbone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import UsageError
from orchestrator.planning.ability import asked
from orchestrator.planning.counts import STREAMS, limit_of, num_drawn, with_counts
from orchestrator.planning.papers.presets import Presets, fields_of
from orchestrator.planning.papers.readings import read_as_printed
from orchestrator.planning.part_values import (
    answers_digest,
    check_backbone,
    check_dataset,
    check_null,
    check_pair,
    find_files,
)
from orchestrator.planning.protocol_values import (
    OwnStream,
    check_order_seed,
    check_use,
    in_own_batches,
    is_typed,
    reduced,
)
from orchestrator.planning.ranges import as_kind_of, check_size
from orchestrator.planning.shapes import EMBEDDED, read_backbone
from orchestrator.planning.trial_spec import (
    DEPTH_FIELDS,
    WIDTH_FIELDS,
    Origin,
    Swept,
    TrialSpec,
)
from orchestrator.settings.complaints import unknown
from orchestrator.settings.models import COMMAND_LINE, PARTS, Protocol, SweepConfig

_DESCRIBED_BY = "described_by"  # while a backbone is read: the file that describes its model


class Resolver:
    """Makes the trials of one sweep; keeps resolved parts, as most trials share them."""

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        self.presets = Presets(config)
        self._keys: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {}  # by part
        self._parts: dict[str, tuple[dict[str, Any], dict[str, Origin]]] = {}
        self._described_by: dict[int, str] = {}  # file that describes a backbone, by its id
        self._methods: dict[tuple[str, int], tuple[dict[str, Any], dict[str, Origin]]] = {}
        self._swept: dict[tuple[str, int, str, int], tuple[Swept, Any, Origin]] = {}
        self._costs: dict[tuple[str, str], dict[str, Any]] = {}
        self._protocols: dict[str, tuple[dict[str, Any], dict[str, Origin]]] = {}
        self._asked, self._asking = asked(config)

    def trial(self, values: Mapping[str, Swept], seed: int, arm: str) -> TrialSpec:
        """The trial in which `values` win over everything else.

        Raises:
            UsageError: For an unknown name or a value of the wrong kind.
        """
        backbone, origins = self._part("backbone", values)
        dataset, dataset_origins = self._part("dataset", values)
        check_pair(backbone, dataset)
        method, method_origins, own = self._method(values, backbone, arm)
        origins = {**origins, **dataset_origins, **method_origins}
        protocol, protocol_origins = self._cached_protocol(values, dataset, own)
        origins.update(protocol_origins)
        spec = TrialSpec(
            self.config.ablation,
            arm,
            seed,
            method,
            backbone,
            dataset,
            protocol,
            {},
            {},
            origins,
            self._cost(values),
            dict(self._asked),
        )
        for key, swept in values.items():
            try:
                spec.swept[key] = spec.value(key)
            except KeyError:
                continue  # an axis of another arm's method
            if not swept.own_units:
                spec.published[key] = [_published(self.config.stands_for.get(key), swept.value)]
        for key in ("protocol.num_edits", "protocol.edit_batch_size", "protocol.num_questions"):
            if (origin := origins.get(key)) and origin.published is not None:
                spec.published.setdefault(key, [origin.published])
        return spec

    def _cost(self, values: Mapping[str, Swept]) -> dict[str, Any]:
        """The `cost` of the chosen method's and data set's files, which only the forecast reads."""
        names = self._choice("method", values), self._choice("dataset", values)
        if names not in self._costs:
            files = map(self.config.spaces.load, ("method", "dataset"), names)
            costs = [file.get("cost") or {} for file in files]
            self._costs[names] = costs[0] | costs[1] | self._asking
        return dict(self._costs[names])

    def _choice(self, group: str, values: Mapping[str, Swept]) -> str:
        return str(values[group].value) if group in values else self.config.choices[group]

    def _swept_of(self, part: str, values: Mapping[str, Swept]) -> dict[str, Swept]:
        """The values of one part; which keys those are is looked up once for each arm."""
        if (all_keys := tuple(values)) not in self._keys:
            self._keys[all_keys] = {
                part: tuple(key for key in all_keys if key.startswith(f"{part}."))
                for part in (*PARTS, "protocol")
            }
        return {key: values[key] for key in self._keys[all_keys][part]}

    def _layered(
        self, part: str, values: Mapping[str, Swept]
    ) -> Iterator[tuple[str, str, Any, Swept | None]]:
        """(source, field, value, axis) of `part` above its file, weakest first."""
        prefix = f"{part}."
        for layer in self.config.layers:
            for key, value in layer.values.items():
                if key.startswith(prefix):
                    yield layer.source, key.removeprefix(prefix), value, None
        for key, swept in values.items():
            if key.startswith(prefix):
                yield swept.source, key.removeprefix(prefix), swept.value, swept

    def _part(
        self, part: str, values: Mapping[str, Swept]
    ) -> tuple[dict[str, Any], dict[str, Origin]]:
        """The backbone or data set, with origins."""
        name = self._choice(part, values)
        swept = self._swept_of(part, values)
        key = f"{part} {name} {swept or ''}"
        if key not in self._parts:
            layered = list(self._layered(part, swept))
            resolved = {"name": name, **self.config.spaces.load(part, name)}
            resolved.pop("cost", None)
            resolved.setdefault(*(("module", name) if part == "dataset" else ("tf32", False)))
            is_embedded = str(resolved.get("model")).startswith(EMBEDDED)
            source_of = self.config.spaces.source
            origins = {
                f"{part}.{field}": Origin(source_of(part, name, field)) for field in resolved
            }
            for source, name_, value, _ in layered:
                if name_ not in resolved:
                    raise unknown(f"{part}.{name_}={value}", name_, resolved)
                check_null(part, name_, value, resolved[name_])
                if name_ != "max_edits":  # one number, or one per part
                    value = as_kind_of(f"{part}.{name_}", value, resolved[name_])
                resolved[name_] = value
                origins[f"{part}.{name_}"] = Origin(source)
            if part == "backbone":
                check_backbone(resolved, origins)
                resolved[_DESCRIBED_BY] = name  # goes where another model takes the place
                origins.update(read_backbone(resolved, origins, is_embedded))
                if (file := resolved.pop(_DESCRIBED_BY, None)) is not None:
                    self._described_by[id(resolved)] = file
            else:
                check_dataset(resolved)
                find_files(resolved)
                self._check_frequencies(resolved, origins, swept)
            self._parts[key] = resolved, origins
        return self._parts[key]

    def _check_frequencies(
        self, dataset: Mapping[str, Any], origins: Mapping[str, Origin], swept: Mapping[str, Swept]
    ) -> None:
        """Raises UsageError for a source of frequencies if records are not drawn by frequency."""
        key = "dataset.frequency_source"
        named = key in swept or (key in origins and origins[key].source == COMMAND_LINE)
        settings = (self.config.axes, *self.config.arms.values())
        has_bands = any("dataset.frequency_band" in keys for keys in settings)
        if named and dataset["frequency_band"] is None and not has_bands:
            raise UsageError(
                f"{key}={dataset['frequency_source']}: without dataset.frequency_band nothing is "
                "drawn by frequency"
            )

    def _method(
        self, values: Mapping[str, Swept], backbone: Mapping[str, Any], arm: str
    ) -> tuple[dict[str, Any], dict[str, Origin], OwnStream]:
        """The method's name, module and fields on this backbone, their origins, its own stream."""
        name = self._choice("method", values)
        loaded = self.config.spaces.load("method", name)
        # id: the backbone is kept in `_parts`, so that no other one takes its place
        if (name, id(backbone)) not in self._methods:
            self._methods[name, id(backbone)] = self._unswept_method(name, loaded, backbone)
        method, origins = (dict(part) for part in self._methods[name, id(backbone)])
        for field_name, value in self._typed_for(arm, name).items():
            if field_name in loaded:
                method[field_name] = value
                origins[f"method.{field_name}"] = Origin(COMMAND_LINE)
        for key, swept in self._swept_of("method", values).items():
            field_name = key.removeprefix("method.")
            if field_name not in loaded:
                continue  # the field of another arm's method; `plan` checks that one of them has it
            known = (key, id(swept), name, id(backbone))  # kept below: no other one gets its id
            if known not in self._swept:
                self._swept[known] = swept, *self._swept_field(key, swept, loaded, backbone)
            _, method[field_name], origins[key] = self._swept[known]
        read_as_printed(method, origins, loaded)
        return method, origins, OwnStream(name, loaded.get("order"), loaded.get("batches"))

    def _swept_field(
        self, key: str, swept: Swept, loaded: Mapping[str, Any], backbone: Mapping[str, Any]
    ) -> tuple[Any, Origin]:
        """A method's field as an axis or an arm sets it on this backbone, and its origin."""
        name = key.removeprefix("method.")
        units = None if swept.own_units else self.config.published_on or loaded.get("published_on")
        typed = as_kind_of(key, swept.value, loaded[name])
        scaled = self.scaled(name, typed, units, backbone)
        return scaled, Origin(swept.source, typed if scaled != typed else None)

    def _unswept_method(
        self, name: str, loaded: Mapping[str, Any], backbone: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Origin]]:
        """The method as everything but axes and arms sets it, and its origins."""
        home, source_of = loaded.get("published_on"), self.config.spaces.source
        fields = fields_of(loaded)
        # field -> (value, source, backbone of the units, or None for this one)
        held: dict[str, tuple[Any, str, str | None]] = {
            key: (value, source_of("method", name, key), home) for key, value in fields.items()
        }
        described_by = self._described_by.get(id(backbone))
        for source, key, value in self.presets.found(name, described_by, backbone["name"]):
            held[key] = (value, source, None)
        for source, key, value, _ in self._layered("method", {}):
            if key in fields:
                units = None if source == COMMAND_LINE else self.config.published_on or home
                held[key] = (as_kind_of(f"method.{key}", value, fields[key]), source, units)
        method: dict[str, Any] = {"name": name, "module": loaded.get("module", name)}
        origins = {"method.name": Origin(f"method {name}")}
        for key, (value, source, units) in held.items():
            try:
                scaled = self.scaled(key, value, units, backbone)
            except UsageError as error:
                raise UsageError(f"{error} ({source})") from error
            method[key] = scaled
            origins[f"method.{key}"] = Origin(source, value if scaled != value else None)
        return method, origins

    def chosen_presets(self, method: str) -> dict[str, Any]:
        """Values chosen for this backbone, by its file or `presets=FILE`; published ones left out.

        Raises:
            UsageError: For a key that the method does not have, or a value of another kind.
        """
        backbone = self.trial({"method": Swept(method, "axis method")}, 0, "").backbone
        return self.presets.chosen(method, self._described_by.get(id(backbone)))

    def _typed_for(self, arm: str, method: str) -> Mapping[str, Any]:
        """Values typed for this arm, over those for its method; a name of both means the arm."""
        of_method = {} if method in self.config.arms else self.config.arm_values.get(method, {})
        return {**of_method, **(self.config.arm_values.get(arm, {}) if arm else {})}

    def scaled(self, name: str, value: Any, units: str | None, backbone: Mapping[str, Any]) -> Any:
        """`value`, meant for the backbone named `units`, scaled to `backbone` by depth or width.

        Raises:
            UsageError: If a layer or a rank is no whole number.
        """
        if value is None:
            return value
        check_size(name, value)
        if units is None:
            return value
        if name in DEPTH_FIELDS:
            depth, published = int(backbone["num_layers"]), self._shape(units, "num_layers")
            if depth == published:
                return value
            if isinstance(value, list):
                # dict: two published layers may fall on one
                return list(
                    dict.fromkeys(_scaled_layer(layer, depth, published) for layer in value)
                )
            return _scaled_layer(value, depth, published)
        if name in WIDTH_FIELDS:
            width, published = int(backbone["hidden_size"]), self._shape(units, "hidden_size")
            return value if width == published else max(1, _nearest(value * width / published))
        return value

    def _shape(self, backbone: str, name: str) -> int:
        return int(self.config.spaces.load("backbone", backbone)[name])

    def _cached_protocol(
        self, values: Mapping[str, Swept], dataset: Mapping[str, Any], own: OwnStream
    ) -> tuple[dict[str, Any], dict[str, Origin]]:
        swept = self._swept_of("protocol", values)
        key = f"{swept} {id(dataset)} {own}"
        if key not in self._protocols:
            self._protocols[key] = self._protocol(swept, dataset, own)
        return self._protocols[key]

    def _protocol(
        self, values: Mapping[str, Swept], dataset: Mapping[str, Any], own: OwnStream
    ) -> tuple[dict[str, Any], dict[str, Origin]]:
        """The protocol with all defaults filled in, reduced to the records of the data set."""
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
                raise UsageError(
                    f"axis protocol.{path}={first['input']}: {first['msg']}"
                ) from error
        for key in ("edit_batch_size", "num_batches"):
            if getattr(protocol, key) is None:
                origins[f"protocol.{key}"] = Origin("default")
        typed = {key for key in Protocol.model_fields if is_typed(key, values, origins)}
        check_use(protocol, typed)
        if own.batches and protocol.kind in STREAMS:
            protocol = in_own_batches(protocol, own, typed)
            for key in ("edit_batch_size", "num_batches"):
                origins[f"protocol.{key}"] = Origin("the method's own")
        # The rounds of a serial stream leave a method's own order of all edits no room.
        own_order = own.order if protocol.kind == "lifelong" else None
        if protocol.order is None:
            origins["protocol.order"] = Origin("the method's own" if own_order else "default")
        resolved = with_counts(protocol, answers_digest=answers_digest(dataset))
        resolved["order"] = protocol.order or own_order or "given"
        of_order = {"protocol.order", "protocol.update_order"}
        is_one_order = not of_order & values.keys()  # of several some may obey
        if is_one_order and "order_seed" in typed and protocol.order_seed is not None:
            check_order_seed(protocol.order_seed, resolved)
        if "num_edits" in typed and protocol.num_edits != resolved["num_edits"]:
            raise UsageError(
                f"protocol.num_edits={protocol.num_edits}: here it follows from other counts and "
                f"is {resolved['num_edits']}; leave it out"
            )
        if protocol.num_edits != resolved["num_edits"]:
            origins["protocol.num_edits"] = Origin("follows from other counts")
        if "answers" in resolved:
            has_file = dataset.get("answers") is not None
            source = "dataset.answers" if has_file else "the published answers are not public"
            origins["protocol.answers"] = Origin(source)
        limit = limit_of(dataset)
        if limit is not None and num_drawn(resolved) > limit:
            resolved = reduced(resolved, limit, dataset, origins, typed)
        return resolved, origins


def _published(stands_for: Mapping[Any, Any] | None, value: Any) -> Any:
    """The published value that `value` stands for; a list stands for itself."""
    return value if isinstance(value, list) else (stands_for or {}).get(value, value)


def _nearest(value: float) -> int:
    return math.floor(value + 0.5)  # round() takes halves to the even number: 1.5 and 2.5 both to 2


def _scaled_layer(layer: int, depth: int, published: int) -> int:
    return min(depth - 1, _nearest(layer * depth / published))
