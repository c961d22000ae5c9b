"""Tells arms apart that would stand in a table under one label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis.aggregate import CONTEXT, Arm

# The keys of the protocol by which a reader knows an arm; the others follow in alphabetical order.
_FIRST = ("kind", "num_edits", "num_questions", "answers_per_question", "num_batches")
_NAME = ""  # an arm's name stands without a key
_MOST_CHARACTERS = 40  # of one value


def apart(arms: Sequence[Arm], labels: Sequence[str]) -> tuple[str, ...]:
    """What tells each arm from those of the same label: its name, else what differs in protocol.

    Args:
        arms: Of one section.
        labels: Under which each would stand.

    Returns:
        For each arm words such as `num_edits 16`; "" where no other has its label.
    """
    by_label: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        by_label.setdefault(label, []).append(place)
    told = [""] * len(arms)
    for places in by_label.values():
        if len(places) > 1:
            texts = _told([arms[place] for place in places])
            for place, text in zip(places, texts, strict=True):
                told[place] = text
    return tuple(told)


def distinct(
    arms: Sequence[Arm], labels: Sequence[str], beside: Sequence[str] = ()
) -> tuple[str, ...]:
    """The labels, each that several arms share with what tells its arm from the others.

    Args:
        arms: Of one section.
        labels: Under which each would stand.
        beside: A label of each that stands beside it; those that differ in it share no label.
    """
    whole = ["\n".join(both) for both in zip(labels, beside, strict=True)] if beside else labels
    told = apart(arms, whole)
    return tuple(with_words(label, words) for label, words in zip(labels, told, strict=True))


def named(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """The arms, those of one name under names that tell them apart."""
    names = distinct(arms, [arm.name for arm in arms])
    return tuple(
        arm if arm.name == name else replace(arm, name=name)
        for arm, name in zip(arms, names, strict=True)
    )


def with_words(label: str, words: str) -> str:
    """A label with what tells it from others in brackets, if there is anything to tell."""
    return f"{label} ({words})" if words else label


def _told(arms: Sequence[Arm]) -> list[str]:
    """What each of several arms has that others have not."""
    if len({arm.name for arm in arms}) == len(arms):
        return [arm.name for arm in arms]
    facts = [_facts(arm) for arm in arms]
    keys = [_NAME, *_FIRST, *sorted({key for each in facts for key in each} - {_NAME, *_FIRST})]
    columns = {key: tuple(each.get(key, "") for each in facts) for key in keys}
    shown: dict[tuple[str, ...], str] = {}  # a batch's size beside its edits says nothing more
    for key, column in columns.items():
        if len(set(column)) > 1:
            shown.setdefault(column, key)
    return [
        ", ".join(f"{key} {column[at]}".strip() for column, key in shown.items() if column[at])
        for at in range(len(arms))
    ]


def _facts(arm: Arm) -> dict[str, str]:
    """What may tell an arm from others."""
    told = {**arm.protocol, "ablation": arm.ablation}
    told |= {name: arm.context.get(name) for name in CONTEXT}
    words = {key: str(value)[:_MOST_CHARACTERS] for key, value in told.items() if value is not None}
    return {_NAME: arm.name, **words}
