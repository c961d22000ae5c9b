"""Checks that a method accepts its settings; free of torch, for the driver and --dry-run.

Whether there is enough data for the trial is checked by `edits/data_check.py`.
"""

from __future__ import annotations

from pathlib import Path

from trainables.methods import Settings
from trainables.moe import nltk_data
from trainables.partial_import import PartialImport
from trainables.spec import TrialSpec


class SettingsCheck:
    """Builds the Config of each specification and looks for the data it reads; equal ones once."""

    def __init__(self, cache: Path) -> None:
        """Nothing is read yet; NLTK's data are looked for in `cache`, too."""
        self._nltk_data = cache / nltk_data.FOLDER
        self._parts = PartialImport()
        self._settings: dict[str, Settings] = {}
        self._built: set[str] = set()

    def check(self, spec: TrialSpec) -> None:
        """Refuse `spec.method` if it makes no Config or NLTK's data for it are missing.

        Raises:
            ConfigError: As the trial itself would.
        """
        method, module = spec.method, spec.method.module
        if module not in self._settings:
            self._settings[module] = Settings.without_import(module, self._parts)
        key = repr(method)
        if key not in self._built:
            config = self._settings[module].build(method.settings)
            nltk_data.check(getattr(config, "nltk_data", ()), self._nltk_data)
            self._built.add(key)
