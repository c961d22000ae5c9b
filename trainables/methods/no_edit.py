"""No edit at all: the floor of every table.

Its scores are those of the untouched backbone, so whatever another method scores above it was
edited and whatever it loses in locality was lost by editing.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.backbones.forward.split import Split
from trainables.field_kinds import checked
from trainables.interfaces import (
    Backbone,
    DecodeState,
    EditBatch,
    EditReport,
    Generators,
    PromptBatch,
    State,
    TrainingRecord,
)


@checked
class Config:
    """Nothing to set."""


class NoEdit:
    """Leaves the backbone as it is."""

    num_steps = 0
    changes_in_finish = True

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        # Nothing changes, so everything below the last layer may come from the cache.
        self.first_layer = backbone.num_layers - 1
        self._split = Split(backbone, self.first_layer, artefacts.prefix_cache)
        self._num_edits = 0

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Nothing to build."""

    def begin(self, batch: EditBatch) -> None:
        """Count the edits."""
        self._num_edits = len(batch)

    def advance(self, max_steps: int) -> bool:
        """Done at once."""
        return True

    def finish(self) -> EditReport:
        """Nothing to commit."""
        return EditReport(num_edits=self._num_edits)

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """The backbone's own logits (M, V)."""
        return self._split.logits(prompts, state)

    def state(self) -> State:
        """Nothing but the count."""
        return State(values={"num_edits": self._num_edits})

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self._num_edits = int(state.values["num_edits"])  # type: ignore[arg-type]

    def remove(self) -> None:
        """Nothing to restore."""


CONFIG = Config
METHOD = NoEdit
