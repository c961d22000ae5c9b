"""Answers to the questions of a task, its score, and how a score changed; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trainables.errors import ConfigError
from trainables.metrics.generation import Logits

LARGEST_LOSS = math.log(1e30)  # nats; a ruined model's is infinite, a mean must stay a number


@dataclass(frozen=True)
class Answer:
    """What one question adds to the score of its task.

    Attributes:
        question: Its name, the same before and after an edit.
        value: Right or wrong (1, 0) or any other share; of text the mean loss, nats per token.
        weight: Of the value in the mean: 1, or the tokens or entities that it is the mean of.
    """

    question: str
    value: float
    weight: float = 1.0


@dataclass(frozen=True)
class Answered:
    """A task's answers by an edited model and, in the same order, by the unedited backbone.

    Attributes:
        task: Name of the task.
        is_perplexity: Whether its values are losses.
        batch: Of the edits after which it was asked, counted from 0.
        before: Of the unedited backbone.
        after: Of the edited one.
    """

    task: str
    is_perplexity: bool
    batch: int
    before: tuple[Answer, ...]
    after: tuple[Answer, ...]

    def lines(self) -> list[dict[str, Any]]:
        """One JSON object per question, for the per-record file."""
        return [
            {
                "record_id": f"{self.task} {new.question}",
                "score": f"ability.{self.task}",
                "subject": None,
                "when": "ability",
                "batch": self.batch,
                "is_perplexity": self.is_perplexity,
                "value": new.value,
                "weight": new.weight,
                "value_before": old.value,
                "weight_before": old.weight,
            }
            for old, new in zip(self.before, self.after, strict=True)
        ]


class Task(Protocol):
    """Questions with a way to score the answers.

    Attributes:
        name: Of the task.
        is_perplexity: Whether its answers are losses.
        texts: Tokens that the model generated which was asked first, by a digest of what stood
            before them; guesses of what the next one will say.
    """

    name: str
    is_perplexity: bool
    texts: dict[str, list[int]]

    def ask(self, logits: Logits) -> list[Answer]:
        """The answers of a model, in an order that is always the same."""
        ...


def score(answers: Sequence[Answer], *, is_perplexity: bool) -> float:
    """The weighted mean of the values; of losses its exponential, at most 1e30.

    Raises:
        ConfigError: If there is no answer, or none that weighs anything.
    """
    weight = math.fsum(answer.weight for answer in answers)
    if not weight:
        raise ConfigError("no question of the task has an answer that counts")
    mean = math.fsum(answer.value * answer.weight for answer in answers) / weight
    if not is_perplexity:
        return mean
    return math.exp(min(mean, LARGEST_LOSS))


def numbers(answered: Sequence[Answered]) -> dict[str, float]:
    """The numbers of a trial's row: means over the batches after which a task was asked.

    `ability.<task>.before` and `.final` are scores, `ability_change.<task>` is the latter less the
    former.
    """
    row: dict[str, float] = {}
    for name in dict.fromkeys(each.task for each in answered):
        own = [each for each in answered if each.task == name]
        after = [score(each.after, is_perplexity=each.is_perplexity) for each in own]
        before = score(own[0].before, is_perplexity=own[0].is_perplexity)
        final = math.fsum(after) / len(after)
        row[f"ability.{name}.before"] = before
        row[f"ability.{name}.final"] = final
        row[f"ability_change.{name}"] = final - before
    return row


def as_json(answers: Sequence[Answer]) -> list[Any]:
    """The answers as JSON."""
    return [[each.question, each.value, each.weight] for each in answers]


def from_json(values: Sequence[Sequence[Any]]) -> tuple[Answer, ...]:
    """The answers that `as_json` wrote."""
    return tuple(Answer(*each) for each in values)


def answered_from(values: Mapping[str, Any]) -> Answered:
    """What `answered_json` wrote."""
    pair = {key: from_json(values[key]) for key in ("before", "after")}
    return Answered(values["task"], values["is_perplexity"], values["batch"], **pair)


def answered_json(answered: Answered) -> dict[str, Any]:
    """Everything as JSON, for a trial's state."""
    return {
        "task": answered.task,
        "is_perplexity": answered.is_perplexity,
        "batch": answered.batch,
        "before": as_json(answered.before),
        "after": as_json(answered.after),
    }
