"""Pairs the arms that a comparison is about, and takes their differences within seeds.

Arms are paired when they agree in all that the comparison does not name, their protocol included.
What follows from a named key may differ, as a method's settings do, and so may what a method has of
its own in one protocol: the order of the edits, and how many are made at once in a stream.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from analysis.aggregate import Arm, Estimate, estimate
from analysis.published.claim_list import Check, Selector
from analysis.published.compare import is_in_published_units

_PROTOCOL = "protocol."  # how swept keys of the protocol begin
_OWN = ("order", "order_seed", "edit_batch_size")  # a method may have its own in one protocol
_DECIDING = ("kind", "num_edits", "num_questions", "answers_per_question")  # others follow


def pairs(check: Check, arms: Sequence[Arm]) -> tuple[tuple[Arm, Arm], ...]:
    """Pairs of arms that the check compares, equal in the keys and the protocol it does not name.

    No arm stands for both sides: of a shallow backbone two published layers may be one.
    An arm that meets several is paired with those that agree with it in most of what a method may
    have of its own; each arm with itself where the check names one side alone.
    """
    arms = [arm for arm in arms if is_selected(arm, check.where)]
    firsts = [arm for arm in arms if is_selected(arm, check.first)]
    if check.first == check.second:
        return tuple((arm, arm) for arm in firsts)
    named = list(dict.fromkeys([*check.first, *check.second, *check.where]))
    keys = _free_keys(arms, named)
    compared = {key.removeprefix(_PROTOCOL) for key in (*check.first, *check.second)}
    sizes = _free_protocol_keys(arms, [*named, *keys], {*_OWN, *compared})
    seconds: dict[Any, list[Arm]] = {}
    for arm in arms:
        if is_selected(arm, check.second):
            seconds.setdefault(_place(arm, keys, sizes), []).append(arm)
    return tuple(
        (arm, other)
        for arm in firsts
        for other in _closest(arm, seconds.get(_place(arm, keys, sizes), ()))
        if other is not arm
    )


def paired_difference(
    pairs: Sequence[tuple[Arm, Arm]], score: str, second_score: str
) -> Estimate | None:
    """First less second within each seed that all arms have, averaged over the pairs.

    The edits of a seed are the same in all arms, so that the spread between seeds cancels.

    Args:
        pairs: At least one, of arms that have the scores.
        score: Of the first arms.
        second_score: Of the second ones.

    Returns:
        The estimate over seeds; None if the arms have no seed in common.
    """
    shared = sorted(set.intersection(*(set(arm.seeds) for pair in pairs for arm in pair)))
    if not shared:
        return None
    by_seed = [
        math.fsum(
            first.of_seed(score, seed) - second.of_seed(second_score, seed)
            for first, second in pairs
        )
        / len(pairs)
        for seed in shared
    ]
    return estimate(by_seed)


def is_selected(arm: Arm, selector: Selector) -> bool:
    """Whether an arm has the values that a selector names."""
    return all(wanted in texts_of(arm, key) for key, wanted in selector.items())


def texts_of(arm: Arm, key: str) -> tuple[str, ...]:
    """The values of an arm under `key`: the published ones that it stands for, else its own."""
    if key == "arm":
        return (str(arm.swept.get("arm", arm.name)),)
    if key == "method":
        return (arm.method,)
    own = arm.swept.get(key, arm.protocol.get(key.removeprefix(_PROTOCOL)))
    if key in arm.swept and key not in arm.published and not is_in_published_units(arm, key):
        return (f"{own} of this backbone's own",)  # a layer or rank that no paper names
    return tuple(str(value) for value in arm.published.get(key, [own]))


def further_keys(check: Check, arms: Sequence[Arm], order: str) -> list[str]:
    """The keys, but for that of the order, in which arms differ that a check names alike."""
    named = [*check.first, *check.second, *check.where]
    keys = _free_keys(arms, named)
    sizes = _free_protocol_keys(arms, [*named, *keys], {order.removeprefix(_PROTOCOL)})
    found = dict.fromkeys([*keys, *(f"{_PROTOCOL}{name}" for name in sizes)])
    return [key for key in found if key != order]


def _free_keys(arms: Sequence[Arm], named: Sequence[str]) -> list[str]:
    """The method and swept keys that differ between arms with equal values of the `named` keys."""
    swept = dict.fromkeys(key for arm in arms for key in ("method", *arm.swept) if key not in named)
    groups: dict[Any, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(_values(arm, named), []).append(arm)
    return [
        key
        for key in swept
        if any(len({texts_of(arm, key) for arm in group}) > 1 for group in groups.values())
    ]


def _free_protocol_keys(
    arms: Sequence[Arm], told: Sequence[str], without: Collection[str]
) -> list[str]:
    """The keys of the protocol that arms have to share to be compared, but for those `without`.

    A swept one is among them if it differs between arms with equal values of the keys `told`, which
    stand for published values. One that is not swept follows from no method or name: it is among
    them unless the swept ones decide it.
    """
    if not arms or all(arm.protocol == arms[0].protocol for arm in arms):
        return []
    names = dict.fromkeys([*_DECIDING, *sorted({name for arm in arms for name in arm.protocol})])
    varying = [name for name in names if len({_size(arm, name) for arm in arms}) > 1]
    swept = [name for name in varying if any(f"{_PROTOCOL}{name}" in arm.swept for arm in arms)]
    places = [_values(arm, told) for arm in arms]
    chosen = _refined(arms, places, [name for name in swept if name not in without])
    decided = [_sizes(arm, swept) for arm in arms]
    others = [name for name in varying if name not in swept and name not in without]
    return chosen + _refined(arms, decided, others)


def _refined(arms: Sequence[Arm], places: Iterable[Any], names: Sequence[str]) -> list[str]:
    """Those of the keys of the protocol that divide arms of one place, one after the other."""
    now: list[tuple[Any, ...]] = [(place,) for place in places]
    chosen = []
    for name in names:
        divided = [(*place, _size(arm, name)) for place, arm in zip(now, arms, strict=True)]
        if len(set(divided)) > len(set(now)):
            chosen.append(name)
            now = divided
    return chosen


def _closest(arm: Arm, others: Sequence[Arm]) -> Sequence[Arm]:
    """Those of the others that agree with an arm in most of what a method may have of its own."""
    if len(others) < 2:
        return others
    own = (*_OWN, "num_batches")
    agreeing = [
        sum(arm.protocol.get(name) == other.protocol.get(name) for name in own) for other in others
    ]
    most = max(agreeing)
    return [other for other, count in zip(others, agreeing, strict=True) if count == most]


def _place(arm: Arm, keys: Sequence[str], sizes: Sequence[str]) -> tuple[Any, ...]:
    return _values(arm, keys), _sizes(arm, sizes)


def _values(arm: Arm, keys: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(texts_of(arm, key) for key in keys)


def _sizes(arm: Arm, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(_size(arm, name) for name in names)


def _size(arm: Arm, name: str) -> str:
    """An arm's own value of a key of the protocol; in a stream the number of batches follows."""
    if name == "num_batches" and arm.protocol.get("kind") != "batch":
        return ""
    return str(arm.protocol.get(name))
