"""Tells what a wrong answer was: the old one, what the backbone said before, or partly right.

An answer is known in two ways. Its pieces are the likeliest tokens at the places of the asked
answer, teacher forced: each trial has them. Its text is what greedy generation writes, where a
trial generates. Pieces behind the first wrong one follow a beginning that was not given, so a free
answer may go on otherwise.

What is right of an answer is told by words, whatever the tokenizer's pieces are, compared as SQuAD
does: its first word, or its last. So are the printed cases of LEMoE, arXiv:2406.20030v1, Table 7,
and of ARM, Table 12, marked: "1960" for "1961" as wholly wrong, "12 July 1967" for "12 July 1944"
and "near threatened" for "critically threatened" as wrong in part, "US Civil War" for "World War
II" wholly.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.metrics.scores import generated_agreement, squad_normalised, until_stop


@dataclass(frozen=True)
class Given:
    """One answer that is not the asked one.

    Attributes:
        answer: Its text; it ends before an end token, and generated text as it does for its score.
        is_old: It turns to an answer that held before the edit.
        is_unchanged: It is what the unedited backbone answers.
        begins_right: Its first word is that of the asked answer.
        ends_right: Its last word is.
    """

    answer: str
    is_old: bool
    is_unchanged: bool
    begins_right: bool
    ends_right: bool


@dataclass(frozen=True)
class WrongAnswer:
    """A wrong answer to the prompt of an edit, or to a rephrase of it.

    Attributes:
        asked: The answer that the edit asks for.
        pieces: What was given piece by piece; None: all pieces are right.
        text: What was generated; None: it is right, or nothing was generated.
    """

    asked: str
    pieces: Given | None
    text: Given | None = None

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> WrongAnswer:
        """The answer that `dataclasses.asdict` wrote."""
        given = {name: values[name] and Given(**values[name]) for name in ("pieces", "text")}
        return cls(values["asked"], **given)


def given_pieces(
    tokenizer: Any,
    asked: str,
    target: tuple[int, ...],
    said: tuple[int, ...],
    before: tuple[int, ...],
    old: Sequence[tuple[int, ...]],
) -> Given:
    """What the pieces at the places of the asked answer say.

    It is old where they are right up to the place at which the asked answer and an old one part,
    and the old one's there (the end token's, where the old answer is the beginning of the asked
    one). An old answer that begins with the whole asked one cannot be told from it.

    Args:
        tokenizer: Of the backbone.
        asked: The answer that the edit asks for.
        target: Its tokens.
        said: The likeliest token at each place of `target`.
        before: The same of the unedited backbone.
        old: Tokens of each answer that held before, behind the same prompt.
    """
    end = tokenizer.eos_token_id
    shown = said[: said.index(end)] if end in said else said
    answer = str(tokenizer.decode(shown, skip_special_tokens=True)).strip()
    is_old = any(_turns_to(each, target, said, end) for each in old)
    return Given(answer, is_old, said == before, *_right_ends(answer, asked))


def given_text(text: str, before: str, asked: str, old: Sequence[str]) -> Given:
    """What a generated text says.

    It is old where it begins with the words of an old answer, and not with those of the asked one.

    Args:
        text: Greedy continuation of the prompt.
        before: The same of the unedited backbone.
        asked: The answer that the edit asks for.
        old: Each answer that held before.
    """
    answer, wanted = until_stop(text, asked), _words(asked)
    held = [(_words(until_stop(text, each)), _words(each)) for each in old]
    begins_old = any(words and said[: len(words)] == words for said, words in held)
    is_old = begins_old and _words(answer)[: len(wanted)] != wanted
    is_unchanged = generated_agreement([text], [before]).item() == 1.0
    return Given(answer, is_old, is_unchanged, *_right_ends(answer, asked))


def _turns_to(
    old: tuple[int, ...], target: tuple[int, ...], said: tuple[int, ...], end: int | None
) -> bool:
    common = min(len(old), len(target))
    fork = next((n for n in range(common) if old[n] != target[n]), common)
    if fork == len(target):
        return False
    return said[:fork] == target[:fork] and said[fork] == (old[fork] if fork < len(old) else end)


def _right_ends(answer: str, asked: str) -> tuple[bool, bool]:
    """Whether the first word of `answer` is that of `asked`, and whether the last is."""
    said, wanted = _words(answer), _words(asked)
    if not said or not wanted:
        return False, False
    return said[0] == wanted[0], said[-1] == wanted[-1]


def _words(text: str) -> list[str]:
    return squad_normalised(unicodedata.normalize("NFC", text)).split()
