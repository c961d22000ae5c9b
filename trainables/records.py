"""The records of a data set: a fact to change, its questions, and what a method may see of it.

Free of torch, as all that reads data is: the driver opens data sets before anything heavy starts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A prompt with the answer at whose tokens an output is compared."""

    prompt: str
    answer: str
    kind: str  # rephrase | locality_near | locality_same | locality_far | portability


@dataclass(frozen=True)
class EditRecord:
    """One fact to change, with everything that it is scored on; never handed to a method whole."""

    record_id: str
    prompt: str
    target_new: str
    subject: str | None = None
    rephrases: tuple[str, ...] = ()
    locality: tuple[Question, ...] = ()
    portability: tuple[Question, ...] = ()
    true_answer: str | None = None
    relation: str | None = None
    frequency: float | None = None  # how often the backbone saw the fact, where known


@dataclass(frozen=True)
class Edit:
    """The part of a record that a method may see while editing.

    `training_locality` are unrelated prompts of another split than those that are scored.
    `true_answer` is what the data set says held before the edit; None where it does not say.
    """

    prompt: str
    target_new: str
    subject: str | None = None
    training_locality: tuple[str, ...] = ()
    true_answer: str | None = None


@dataclass(frozen=True)
class TrainingRecord:
    """One fact that a method may train itself on ahead of all edits; no trial is scored on it.

    Attributes:
        edit: The change that is tried; it is never among those that the trial makes.
        rephrases: Other wordings of its prompt, for which its target is right too.
        unrelated: Questions whose answers the change must leave alone, of kind `locality_near`,
            `locality_same` or `locality_far`; their answers are the true ones.
    """

    edit: Edit
    rephrases: tuple[str, ...] = ()
    unrelated: tuple[Question, ...] = ()
