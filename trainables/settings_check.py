"""Whether a specification's method takes its settings; free of torch, for the driver and dry runs.

The other half, whether its data can feed it, is `data_check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.methods import Settings, method_settings
from trainables.partial_import import PartialImport


class SettingsCheck:
    """Builds the Config of each specification; equal ones once."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._parts = PartialImport()
        self._settings: dict[str, Settings] = {}
        self._built: set[str] = set()

    def check(self, spec: Mapping[str, Any]) -> None:
        """Nothing, when the Config of `spec["method"]` can be built.

        Raises:
            ConfigError: As the trial itself would.
        """
        method, module = spec["method"], spec["method"]["module"]
        if module not in self._settings:
            self._settings[module] = Settings.without_import(module, self._parts)
        key = repr(method)
        if key not in self._built:
            self._settings[module].build(method_settings(method))
            self._built.add(key)
