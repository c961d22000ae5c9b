"""Checks that a method accepts its settings, and that a trial can measure what it is to.

Free of torch, for the driver and --dry-run.

Whether there is enough data for the trial is checked by `edits/data_check.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainables.ability import definitions
from trainables.errors import ConfigError
from trainables.methods import Settings, has_routes
from trainables.moe import nltk_data
from trainables.partial_import import PartialImport
from trainables.spec import TrialSpec

# Numbers of a row that only some trials have.
OF_REPEATED_EDITS = frozenset({"stale_rate", "same_expert_rate"})
OF_ROUTES = frozenset(
    {
        *("routing_consistency", "routing_consistency_similar", "routing_purity"),
        *("largest_load", "own_expert_rate", "same_expert_rate", "num_experts_used"),
    }
)
OF_LATER_BATCHES = "retention"


class SettingsCheck:
    """Builds the Config of each specification and looks for the data it reads; equal ones once."""

    def __init__(self, cache: Path, compared: Sequence[str] = ()) -> None:
        """Nothing is read yet.

        Args:
            cache: Where NLTK's data are looked for, too.
            compared: Numbers of a trial that a scheduler or a search compares the mean of, such as
                `reliability.token`; none where nothing is compared.
        """
        self._compared = compared
        self._nltk_data = cache / nltk_data.FOLDER
        self._parts = PartialImport()
        self._settings: dict[str, Settings] = {}
        self._built: set[str] = set()
        self._asked: set[str] = set()

    def check(self, spec: TrialSpec) -> None:
        """Refuse `spec` if its method makes no Config, or lacks NLTK's data, or nothing compares.

        So it is if a task of `evaluate.ability` cannot be asked.

        Raises:
            EditingError: As the trial itself would.
        """
        self._check_compared(spec)
        if (asked := repr((spec.evaluate, spec.backbone))) not in self._asked:
            definitions.check(spec.evaluate, spec.backbone)
            self._asked.add(asked)
        method, module = spec.method, spec.method.module
        if module not in self._settings:
            self._settings[module] = Settings.without_import(module, self._parts)
        key = repr(method)
        if key not in self._built:
            config = self._settings[module].build(method.settings)
            nltk_data.check(getattr(config, "nltk_data", ()), self._nltk_data)
            self._built.add(key)

    def _check_compared(self, spec: TrialSpec) -> None:
        """Raises ConfigError where the trial measures nothing of what is compared."""
        protocol, names = spec.protocol, {name.partition(".")[0] for name in self._compared}
        lacks = ""
        if names and names <= OF_REPEATED_EDITS and protocol.kind != "serial":
            lacks = "it is measured with protocol.kind=serial alone"
        elif names and names <= OF_ROUTES and not has_routes(spec.method.module):
            lacks = f"method={spec.method.name} routes nothing"
        elif names == {OF_LATER_BATCHES} and protocol.is_rolled_back:
            lacks = f"protocol.kind={protocol.kind} rolls back after every batch"
        if lacks:
            raise ConfigError(f"scheduler.metric compares {', '.join(self._compared)}; {lacks}")
