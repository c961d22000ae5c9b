"""Checks which keys of a protocol do something in its kind, and fits it to a data set's records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.planning.counts import STREAMS, counts_within
from orchestrator.planning.trial_spec import Origin, Swept
from orchestrator.settings.models import COMMAND_LINE, Protocol


@dataclass(frozen=True)
class OwnStream:
    """What a method's file says of the stream that it edits.

    Attributes:
        method: Its name.
        order: Its own order of the edits, where no other is asked for.
        batches: `one`: it takes all edits at once, whatever the other methods do.
    """

    method: str
    order: str | None = None
    batches: str | None = None


def in_own_batches(protocol: Protocol, own: OwnStream, typed: set[str]) -> Protocol:
    """A stream in the one batch that the method takes.

    Raises:
        UsageError: If other batches were typed, or the protocol edits a question more than once.
    """
    takes = f"method {own.method} takes all edits of a stream at once"
    if protocol.kind == "serial":
        raise UsageError(
            f"protocol.kind=serial: {takes}, and here a question is edited several times; "
            "it is for protocol.kind=lifelong"
        )
    for key, one in (("num_batches", 1), ("edit_batch_size", protocol.num_edits)):
        if key in typed and (value := getattr(protocol, key)) not in (None, one):
            raise UsageError(f"protocol.{key}={value}: {takes}; leave it out")
    return protocol.model_copy(update={"num_batches": 1, "edit_batch_size": None})


def is_typed(key: str, values: Mapping[str, Swept], origins: Mapping[str, Origin]) -> bool:
    """Whether a key of the protocol was given on the command line."""
    axis = values.get(f"protocol.{key}")
    return axis.own_units if axis else origins[f"protocol.{key}"].source == COMMAND_LINE


def check_order_seed(order_seed: int, resolved: Mapping[str, Any]) -> None:
    """Raises UsageError for the seed of an order that is not random."""
    order, is_serial = resolved["order"], resolved["kind"] == "serial"
    if order in ("given", "hierarchical") and resolved.get("update_order") != "random":
        others = "protocol.update_order=random" if is_serial else "one of kmeans"
        raise UsageError(
            f"protocol.order_seed={order_seed}: protocol.order={order} draws nothing; "
            f"it is for protocol.order=random or {others}"
        )


def check_use(protocol: Protocol, typed: set[str]) -> None:
    """Raises UsageError for a key that does nothing in this kind of protocol."""
    kind, is_stream = protocol.kind, protocol.kind in STREAMS
    if not is_stream and protocol.order not in (None, "given"):
        raise UsageError(
            f"protocol.order={protocol.order}: protocol.kind={kind} rolls back "
            "after every batch, so that no order matters; it is for protocol.kind=lifelong"
        )
    if not is_stream and protocol.curve:
        raise UsageError(
            f"protocol.curve=true: protocol.kind={kind} rolls back after every batch, so that "
            "there is nothing to forget; it is for protocol.kind=lifelong or serial"
        )
    if not is_stream and "order_seed" in typed and protocol.order_seed is not None:
        raise UsageError(
            f"protocol.order_seed={protocol.order_seed}: protocol.kind={kind} rolls back after "
            "every batch, so that no order matters; it is for protocol.kind=lifelong or serial"
        )
    for key in ("num_questions", "answers_per_question", "update_order"):
        if kind != "serial" and key in typed and getattr(protocol, key) is not None:
            raise UsageError(
                f"protocol.{key}={getattr(protocol, key)}: it is for protocol.kind=serial, "
                f"not for protocol.kind={kind}"
            )


def reduced(
    resolved: dict[str, Any],
    limit: int,
    dataset: Mapping[str, Any],
    origins: dict[str, Origin],
    typed: set[str],
) -> dict[str, Any]:
    """The protocol reduced to `limit` records; changes the origins of what it reduces."""
    size = "num_questions" if resolved["kind"] == "serial" else "num_edits"
    size = "group_sizes" if "group_sizes" in resolved else size
    if resolved["kind"] == "batch" and "num_batches" in typed and "group_sizes" not in resolved:
        size = "num_edits" if resolved["num_edits"] > limit else "num_batches"
        raise UsageError(
            f"protocol.{size}={resolved[size]}: data set {dataset['name']!r}, part "
            f"{dataset.get('part')!r}, can feed {limit} edits at most, "
            f"and {resolved['num_batches']} batches of {resolved['num_edits']} are drawn"
        )
    if size in typed or size == "group_sizes":
        counted = "questions" if size == "num_questions" else "edits"
        raise UsageError(
            f"protocol.{size}={resolved[size]}: data set {dataset['name']!r}, part "
            f"{dataset.get('part')!r}, can feed {limit} {counted} at most"
        )
    reduced = {**resolved, **counts_within(resolved, limit)}
    for key in ("num_edits", "edit_batch_size", "num_questions"):
        if reduced.get(key) != resolved.get(key):
            source = f"all that {dataset['name']} can feed"
            origins[f"protocol.{key}"] = Origin(source, resolved[key])
    return reduced
