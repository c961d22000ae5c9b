"""Tells what a wrong answer was: the old one, what the backbone said before, or partly right.

An answer is known in two ways. Its pieces are the likeliest tokens at the places of the asked
answer, teacher forced: each trial has them. Its text is what greedy generation writes, where a
trial generates. Pieces behind the first wrong one follow a beginning that was not given, so a free
answer goes on otherwise: whether pieces are old or unchanged is told by those up to there, and that
the last word is right may be due to the words that were fed.

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

from trainables.metrics.scores import first_answer, generated_agreement, squad_normalised


@dataclass(frozen=True)
class Given:
    """One answer that is not the asked one.

    Attributes:
        answer: Its text; it ends before an end token, and generated text as it does for its score.
        old: The answer that held before the edit and that it turns to; None: it turns to none.
        is_unchanged: It is what the unedited backbone answers.
        begins_right: Its first word is that of the asked answer.
        ends_right: Its last word is.
    """

    answer: str
    old: str | None
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
    old: Mapping[str, tuple[int, ...]],
) -> Given:
    """What the pieces at the places of the asked answer say, one of which at least is wrong.

    The answer is old where the first wrong piece stands where the asked answer and an old one part,
    and is the old one's there (the end token, where the old answer is the beginning of the asked
    one). An old answer that begins with the whole asked one cannot be told from it. The answer is
    unchanged where the pieces up to the first wrong one are as before.

    Args:
        tokenizer: Of the backbone.
        asked: The answer that the edit asks for.
        target: Its tokens.
        said: The likeliest token at each place of `target`.
        before: The same of the unedited backbone.
        old: Each answer that held before, with its tokens behind the same prompt.
    """
    end = tokenizer.eos_token_id
    shown = said[: said.index(end)] if end in said else said
    answer = str(tokenizer.decode(shown, skip_special_tokens=True)).strip()
    wrong = next(place for place, token in enumerate(target) if said[place] != token)
    told = said[: wrong + 1]  # what follows was said to a beginning that was not given
    held = (text for text, tokens in old.items() if (*tokens, end)[: wrong + 1] == told)
    is_unchanged = before[: wrong + 1] == told
    return Given(answer, next(held, None), is_unchanged, *_right_ends(answer, asked))


def given_text(text: str, before: str, asked: str, old: Sequence[str]) -> Given:
    """What a generated text says.

    It is old where it begins with the words of an old answer, and not with those of the asked one.

    Args:
        text: Greedy continuation of the prompt.
        before: The same of the unedited backbone.
        asked: The answer that the edit asks for.
        old: Each answer that held before.
    """
    answer = first_answer(text, asked)
    held = (each for each in old if _begins(first_answer(text, each), each))
    turns_to = None if _begins(answer, asked) else next(held, None)
    is_unchanged = generated_agreement([text], [before]).item() == 1.0
    return Given(answer, turns_to, is_unchanged, *_right_ends(answer, asked))


def _right_ends(answer: str, asked: str) -> tuple[bool, bool]:
    """Whether the first word of `answer` is that of `asked`, and whether the last is."""
    said, wanted = _words(answer), _words(asked)
    if not said or not wanted:
        return False, False
    return said[0] == wanted[0], said[-1] == wanted[-1]


def _begins(answer: str, with_: str) -> bool:
    """Whether `answer` begins with all the words of another answer, which has some."""
    words = _words(with_)
    return bool(words) and _words(answer)[: len(words)] == words


def _words(text: str) -> list[str]:
    return squad_normalised(unicodedata.normalize("NFC", text)).split()
