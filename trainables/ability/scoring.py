"""Scores of generated answers, as the papers name them; pure functions on a record and a text.

MEMoE v1 and v2, section 5.1, after Gu et al., arXiv:2401.04700: solve rate, exact match, the mean
of ROUGE-1, 2 and L, entity-level F1. Each returns (value, weight) of one question; a task's score
is the weighted mean of the values.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from trainables.metrics.scores import same_answer

Score = Callable[[Mapping[str, Any], str], tuple[float, float]]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_ENTITY = re.compile(r"(.+?) \((\w+)\)")


def last_number(record: Mapping[str, Any], text: str) -> tuple[float, float]:
    """1 if the number behind #### in `text`, else its last one, is that of the record's answer."""
    _, mark, behind = text.partition("####")
    said = _NUMBER.findall(behind)[:1] if mark else _NUMBER.findall(text)[-1:]
    wanted = _NUMBER.findall(str(record["answer"]).rpartition("####")[2])[:1]
    return float(bool(said) and list(map(_value, said)) == list(map(_value, wanted))), 1.0


def short_answer(record: Mapping[str, Any], text: str) -> tuple[float, float]:
    """1 if `text` is one of the record's answers, both normalised as for SQuAD."""
    answers = record["answer"]
    known = [answers] if isinstance(answers, str) else answers
    return float(any(same_answer(text, each) for each in known)), 1.0


def rouge(record: Mapping[str, Any], text: str) -> tuple[float, float]:
    """Mean of the F scores of ROUGE-1, ROUGE-2 and ROUGE-L with the record's summary, stemmed."""
    found = _rouge().score(str(record["summary"]), text)
    return sum(each.fmeasure for each in found.values()) / len(found), 1.0


def entities(record: Mapping[str, Any], text: str) -> tuple[float, float]:
    """What one sentence adds to the entity-level F1 of all: 2 TP / (2 TP + FP + FN).

    The weight is the denominator, so that the weighted mean of all sentences is their micro F1.
    """
    wanted = Counter(tagged_entities(record["tokens"], record["ner_tags"]))
    said = Counter((name.strip(), kind) for name, kind in map(_named, text.split(";")) if name)
    right = (wanted & said).total()
    weight = wanted.total() + said.total()
    return (2 * right / weight if weight else 0.0), float(weight)


def tagged_entities(tokens: Sequence[str], tags: Sequence[str]) -> list[tuple[str, str]]:
    """Name and kind of each entity that BIO tags mark: `B-PER`, `I-PER`, `O`."""
    found: list[tuple[list[str], str]] = []
    before = "O"
    for token, tag in zip(tokens, tags, strict=True):
        kind = tag.partition("-")[2]
        goes_on = tag.startswith("I-") and before.partition("-")[2] == kind
        if kind and goes_on:
            found[-1][0].append(token)
        elif kind:
            found.append(([token], kind))
        before = tag
    return [(" ".join(words), kind) for words, kind in found]


SCORES: Mapping[str, Score] = {
    "last_number": last_number,
    "short_answer": short_answer,
    "rouge": rouge,
    "entities": entities,
}


def _named(text: str) -> tuple[str, str]:
    match = _ENTITY.search(text.strip())
    return (match[1], match[2]) if match else ("", "")


def _value(number: str) -> float:
    return float(number.replace(",", ""))


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # comes with the extra

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
