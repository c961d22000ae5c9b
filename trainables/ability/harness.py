"""Tasks of lm-evaluation-harness, asked of an edited model; heavy, see `edited_model`."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import lm_eval.evaluator
from datasets.exceptions import DatasetsError
from lm_eval.api.metrics import mean, perplexity, weighted_perplexity
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from trainables.ability.answers import LARGEST_LOSS, Answer
from trainables.ability.definitions import (
    KEY,
    Definition,
    defined,
    documents,
    files_of,
    harness_file,
)
from trainables.ability.edited_model import EditedModel
from trainables.ability.scoring import SCORES
from trainables.errors import ConfigError, DataError
from trainables.interfaces import Backbone
from trainables.metrics.generation import Logits
from trainables.spec import EvaluateSpec

_FEWSHOT_SEED = 1234  # the harness's own
_SCORE = "score"  # the metric of a task that is scored by a function of ours


class HarnessTask:
    """A task, or all tasks of a group as one; the answers are those of its first metric."""

    def __init__(self, name: str, backbone: Backbone, wanted: EvaluateSpec) -> None:
        """Read the questions, at most `wanted.questions` of each task.

        Raises:
            ConfigError: If there is no such task, or none of its metrics is a number per question.
            DataError: If its data cannot be had.
        """
        self.name = name
        self.texts: dict[str, list[int]] = {}
        self._backbone, self._questions = backbone, wanted.questions
        self._tasks = tasks_of(name, wanted)
        metrics = {task: _metric(made, name) for task, made in self._tasks.items()}
        self._metric_of = {task: metric for task, (metric, _) in metrics.items()}
        self.is_perplexity = any(is_loss for _, is_loss in metrics.values())

    def ask(self, logits: Logits) -> list[Answer]:
        """One answer per question, in the order of the tasks and their questions."""
        model = EditedModel(logits, self._backbone, self.texts)
        for task in self._tasks.values():
            task.set_fewshot_seed(_FEWSHOT_SEED)  # its generator goes on from one asking to another
        with _quiet():
            found = lm_eval.evaluator.evaluate(
                model,
                {"tasks": self._tasks},
                limit=self._questions,
                bootstrap_iters=0,
                log_samples=True,
            )
        return [
            self._answer(name, sample)
            for name, samples in found["samples"].items()
            for sample in samples
            if sample["filter"] == samples[0]["filter"]
        ]

    def _answer(self, task: str, sample: Mapping[str, Any]) -> Answer:
        value = sample[self._metric_of[task]]
        question = str(sample["doc_id"])
        question = question if len(self._tasks) == 1 else f"{task}/{question}"
        if not self.is_perplexity:
            found, weight = value if isinstance(value, tuple) else (value, 1.0)
            return Answer(question, float(found), float(weight))
        total, weight = value if isinstance(value, tuple) else (value, 1.0)
        loss = -float(total) / max(float(weight), 1.0)
        return Answer(question, min(loss, LARGEST_LOSS), float(weight))


def check_data(wanted: EvaluateSpec, name: str) -> None:
    """Load a task of the harness itself, with its data from the hub or the hub's cache.

    Raises:
        ConfigError: As `HarnessTask` does.
        DataError: As `HarnessTask` does.
    """
    for task in tasks_of(name, wanted).values():
        _metric(task, name)


def tasks_of(name: str, wanted: EvaluateSpec) -> dict[str, Any]:
    """The harness's tasks by their names: one, or all of a group.

    Raises:
        ConfigError: If there is none of that name.
        DataError: If the data of one cannot be had.
    """
    with _quiet():
        known = defined().get(name)
        if known is not None:
            return {name: _task_of_files(known, wanted)}
        folder = harness_file(name).parent
        try:
            found = TaskManager(include_path=str(folder), include_defaults=False).load([name])
        except (OSError, ValueError, ImportError, DatasetsError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(f"{KEY}={name}: its data cannot be had: {reason}") from error
    return dict(found["tasks"])


def _task_of_files(known: Definition, wanted: EvaluateSpec) -> ConfigurableTask:
    """A task of `search_spaces/ability/`, on the user's files."""
    files = files_of(known, wanted)
    held = {split: documents(known, path) for split, path in files.items()}
    config: dict[str, Any] = dict(known.task)
    if known.scoring is not None:
        config["process_results"] = _scored_by(known.scoring)
        config["metric_list"] = [
            {"metric": _SCORE, "aggregation": _weighted_mean, "higher_is_better": True}
        ]
    if "train" not in held:
        config["num_fewshot"] = 0
    return ConfigurableTask(
        config={
            **config,
            "task": known.name,
            "test_split": "test",
            "custom_dataset": lambda **_: {
                split: datasets.Dataset.from_list(records) for split, records in held.items()
            },
        }
    )


def _scored_by(name: str) -> Callable[[Mapping[str, Any], Sequence[str]], dict[str, Any]]:
    score = SCORES[name]
    return lambda record, texts: {_SCORE: score(record, texts[0])}


def _weighted_mean(pairs: Sequence[tuple[float, float]]) -> float:
    total = math.fsum(weight for _, weight in pairs)
    return math.fsum(value * weight for value, weight in pairs) / total if total else 0.0


def _metric(task: Any, name: str) -> tuple[str, bool]:
    """The first metric of a task that is the mean of a number per question; whether of losses."""
    losses = (perplexity, weighted_perplexity)
    aggregations: Mapping[str, Any] = task.aggregation()
    for metric, aggregation in aggregations.items():
        if aggregation in (mean, _weighted_mean, *losses):
            return metric, aggregation in losses
    raise ConfigError(
        f"{KEY}={name}: none of its metrics ({', '.join(aggregations)}) is a mean over questions, "
        "so that no change could be paired"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block the harness draws no bars, and warns of nothing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
