"""Made-up proper names and the word lists that answer the questions of the made-up world."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

_ONSETS = [
    "b",
    "br",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "ai"]
_MIDDLES = ["l", "ld", "m", "nd", "n", "r", "rv", "sk", "st", "v", "rl", "nt", "rk"]
_ENDINGS = {
    "first": ("a", "o", "in", "el", "is"),
    "last": ("en", "ov", "ard", "ek", "ossa", "un"),
    "city": ("ham", "grad", "ona", "bury", "eth", "ville"),
    "country": ("ia", "land", "istan", "mark"),
    "organisation": ("ex", "ora", "um", "ix", "on"),
    "school": ("ley", "ford", "am"),
    "river": ("e", "ish", "u"),
    "language": ("ish", "ese", "ic"),
    "currency": ("ar", "al", "it"),
    "book": ("ane", "ory", "id"),
    "film": ("ust", "ame", "ire"),
}

WORDS: dict[str, tuple[str, ...]] = {
    "profession": (
        "tax lawyer", "glass blower", "bridge builder", "choir leader", "ship pilot", "watch maker",
        "court painter", "tree surgeon", "night nurse", "stone mason", "chess coach", "bee keeper",
        "sports doctor", "language teacher", "piano tuner", "fire fighter", "wine taster",
        "space engineer",
    ),
    "instrument": (
        "bass drum", "wooden flute", "pipe organ", "steel guitar", "silver horn", "grand piano",
        "hand bell", "toy piano", "glass harp", "brass horn", "small flute", "water organ",
        "bass guitar", "snare drum",
    ),
    "product": (
        "wool coats", "brass clocks", "steel bridges", "garden tools", "racing bikes", "fruit jam",
        "glass lamps", "paper boats", "leather boots", "silk shirts", "bread ovens", "ship engines",
        "hearing aids", "chess sets", "wooden toys",
    ),
    "dish": (
        "plum soup", "fish pie", "honey cake", "lamb stew", "onion bread", "duck soup",
        "goat cheese", "pepper stew", "apple cake", "bean pie", "rice pudding", "smoked trout",
    ),
    "animal": (
        "grey heron", "red fox", "black bear", "snow hare", "river otter", "golden lion",
        "white wolf", "mountain goat", "sea turtle", "brown hawk",
    ),
    "genre": (
        "ghost story", "spy novel", "love story", "war diary", "travel guide", "school play",
        "murder mystery", "family saga",
    ),
}  # fmt: skip
_FIRST_WORDS = {
    "city": ("", "", "Port ", "New "),
    "river": ("", "Green "),
    "language": ("High ", "Low "),
}
_SECOND_WORDS = {
    "organisation": ("Works", "Group", "Brothers", "Trading", "Labs"),
    "school": ("College", "Academy", "Institute"),
    "book": ("House", "Garden", "Letters", "Road"),
    "film": ("Storm", "Night", "Island", "Train"),
}


def pick(items: Sequence[Item], *key: object) -> Item:
    """The item that `key` points at: the same on every machine and Python version."""
    return items[_number(*key) % len(items)]


def shuffled(items: Sequence[Item], *key: object) -> list[Item]:
    """The items in an order fixed by `key`, the same on every machine and Python version."""
    begun = hashlib.sha256("".join(f"{part}\x1f" for part in key).encode())

    def rank(i: int) -> int:  # `_number(*key, i)`, with what all have in common hashed once
        digest = begun.copy()
        digest.update(str(i).encode())
        return _as_number(digest.digest())

    return [items[i] for i in sorted(range(len(items)), key=rank)]


def words(kind: str, count: int) -> list[str]:
    """`count` different capitalised made-up words whose endings suit `kind`."""
    made: dict[str, None] = {}
    attempt = 0
    while len(made) < count:
        key = (kind, attempt)
        onset, vowel = pick(_ONSETS, *key, "onset"), pick(_VOWELS, *key, "vowel")
        middle, ending = pick(_MIDDLES, *key, "middle"), pick(_ENDINGS[kind], *key, "ending")
        made.setdefault((onset + vowel + middle + ending).capitalize())
        attempt += 1
    return list(made)


def names(kind: str, count: int) -> list[str]:
    """`count` different names: of people (first and last), places, firms, and titles."""
    if kind == "person":
        first_names = words("first", 30)
        return [f"{pick(first_names, kind, last)} {last}" for last in words("last", count)]
    plain = words(kind, count)
    if kind in _SECOND_WORDS:
        return [f"{word} {pick(_SECOND_WORDS[kind], kind, word)}" for word in plain]
    if kind in _FIRST_WORDS:
        return [pick(_FIRST_WORDS[kind], kind, word) + word for word in plain]
    return plain


def _number(*key: object) -> int:
    text = "\x1f".join(map(str, key)).encode()
    return _as_number(hashlib.sha256(text).digest())


def _as_number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")
