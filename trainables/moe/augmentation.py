"""Makes further forms of an edit's prompt to train on: random prefixes and changed subjects.

Source: ARM (Serial Lifelong Editing via Mixture of Knowledge Experts), Appendix B.1 and Table 10.
A subject is changed in one of three ways: a title in front, a word put between its words, or its
middle words taken out. Only ways that fit are drawn: a subject of one word can have a title only,
one of two words has no middle to take out.

Choices where the paper is silent: the titles and words below; where both forms of augmentation are
on, each row is drawn to have the prefix, the changed subject, or both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import torch

from trainables.interfaces import Edit

Augmentation = Literal["none", "prefix", "noise", "both"]
Item = TypeVar("Item")

_TITLES = ("Dr.", "Mr.", "Sir", "Professor", "Saint", "The great")
_MIDDLE_WORDS = ("Louis", "Maria", "de", "van", "Parthenia", "Lee", "Alexander", "May")


def sampled(items: Sequence[Item], count: int, generator: torch.Generator) -> list[Item]:
    """`count` of `items` without replacement, or all of them when there are no more."""
    order = torch.randperm(len(items), generator=generator)[:count]
    return [items[index] for index in order.tolist()]


def noisy_subject(subject: str, generator: torch.Generator) -> str:
    """`subject` with a title, with a word more in the middle, or without its middle words."""
    words = subject.split()
    ways = ["title", "insert", "delete"][: min(max(len(words), 1), 3)]
    (way,) = sampled(ways, 1, generator)
    if way == "title":
        return " ".join(sampled(_TITLES, 1, generator) + words)
    if way == "insert":
        position = int(torch.randint(1, len(words), (1,), generator=generator))
        return " ".join(words[:position] + sampled(_MIDDLE_WORDS, 1, generator) + words[position:])
    return f"{words[0]} {words[-1]}"


def augmented_prompts(
    edit: Edit,
    augmentation: Augmentation,
    count: int,
    prefixes: Sequence[str],
    generator: torch.Generator,
) -> list[str]:
    """`count` further forms of the edit's prompt; none with `none`.

    An edit whose subject does not occur in its prompt gets prefixes where noise was asked for;
    `lacks_subject` says so. Where there are no prefixes, changed subjects alone are left.
    """
    if augmentation == "none" or not count:
        return []
    if not prefixes:
        if augmentation == "prefix" or lacks_subject(edit):
            return []
        return [_with_noise(edit, generator) for _ in range(count)]
    chosen = sampled(prefixes, count, generator)
    while len(chosen) < count:  # fewer stored prefixes than asked for: some come twice
        chosen += sampled(prefixes, count - len(chosen), generator)
    forms = []
    for prefix in chosen:
        kind: str = augmentation
        if lacks_subject(edit):
            kind = "prefix"
        elif kind == "both":
            (kind,) = sampled(("prefix", "noise", "both"), 1, generator)
        prompt = _with_noise(edit, generator) if kind in ("noise", "both") else edit.prompt
        forms.append(f"{prefix} {prompt}" if kind in ("prefix", "both") else prompt)
    return forms


def _with_noise(edit: Edit, generator: torch.Generator) -> str:
    assert edit.subject
    return edit.prompt.replace(edit.subject, noisy_subject(edit.subject, generator))


def lacks_subject(edit: Edit) -> bool:
    """True when there is no subject to change in the prompt."""
    return not edit.subject or edit.subject not in edit.prompt
