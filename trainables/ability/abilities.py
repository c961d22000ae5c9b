"""The tasks of a trial: what the unedited backbone answers, kept for all trials, and an edited one.

Which tasks there are, and what they need, `definitions` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainables.ability.answers import Answer, Answered, Task, as_json, from_json
from trainables.ability.definitions import defined, digest_of
from trainables.ability.world import ReservedFacts, WorldText
from trainables.artefacts import Artefacts
from trainables.backbones.forward.split import Split
from trainables.interfaces import Backbone, DecodeState, PromptBatch, State
from trainables.metrics.generation import Logits
from trainables.pulse import pulse
from trainables.spec import EvaluateSpec

KIND = "ability"  # of the artefact

_OF_WORLD: Mapping[str, Callable[[Backbone, int | None], Task]] = {
    "reserved_facts": ReservedFacts,
    "world_text": WorldText,
}


@dataclass(frozen=True)
class Abilities:
    """Tasks, each with the answers of the unedited backbone."""

    tasks: Sequence[Task]
    before: Mapping[str, tuple[Answer, ...]]

    def ask(self, logits: Logits, batch: int) -> list[Answered]:
        """What an edited model answers after the edits of `batch`."""
        found = []
        for task in self.tasks:
            pulse().stage(f"asking {task.name}")
            after = tuple(task.ask(logits))
            before = self.before[task.name]
            found.append(Answered(task.name, task.is_perplexity, batch, before, after))
        return found


def abilities(wanted: EvaluateSpec, backbone: Backbone, artefacts: Artefacts) -> Abilities:
    """The tasks that `wanted` names; the unedited backbone is asked once for each.

    Raises:
        EditingError: If a task cannot be asked.
    """
    tasks = [_task(name, backbone, wanted) for name in wanted.ability]
    before = {task.name: _unedited(task, wanted, backbone, artefacts) for task in tasks}
    return Abilities(tasks, before)


def _task(name: str, backbone: Backbone, wanted: EvaluateSpec) -> Task:
    known = defined().get(name)
    if known is not None and known.reads == "world":
        return _OF_WORLD[name](backbone, wanted.questions)
    from trainables.ability.harness import HarnessTask  # the optional extra; seconds

    return HarnessTask(name, backbone, wanted)


def _unedited(
    task: Task, wanted: EvaluateSpec, backbone: Backbone, artefacts: Artefacts
) -> tuple[Answer, ...]:
    def build() -> State:
        pulse().stage(f"asking the unedited backbone {task.name}")
        # Nothing is kept of the layers below: a trial keeps them up to its own layer.
        split = Split(backbone, 0, artefacts.prefix_cache)

        def logits(
            prompts: PromptBatch, state: DecodeState | None
        ) -> tuple[torch.Tensor, DecodeState]:
            pulse().tick()
            return split.logits(prompts, state)

        with backbone.micro_batch.undivided():  # stored: other ranks read it
            answers = as_json(task.ask(logits))
        return State(values={"answers": answers, "texts": {**task.texts}})

    inputs = {**backbone.identity, "task": digest_of(wanted, task.name)}
    values: dict[str, Any] = artefacts.get(KIND, inputs, build).values
    task.texts.update(values.get("texts", {}))  # older artefacts have none
    return from_json(values["answers"])
