"""Two readings of a paper's method: one that works, and what the paper prints, word for word.

A method's file holds the first as its settings and, under `printed`, the values that differ in the
second. `method.reading=printed` takes these, but for keys that are typed, swept or set by an
ablation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.planning.ranges import as_kind_of
from orchestrator.planning.trial_spec import Origin

KEY, PRINTED, READINGS = "reading", "printed", ("working", "printed")


def read_as_printed(
    method: dict[str, Any], origins: dict[str, Origin], loaded: Mapping[str, Any]
) -> None:
    """Put the printed values into `method` where that reading is asked for.

    Args:
        method: The resolved settings of a method; changed.
        origins: Where each came from, by dotted key; changed.
        loaded: The method's file.

    Raises:
        UsageError: If there is no such reading, or the file prints a key that it has not.
    """
    if KEY not in method:
        return
    if (reading := method[KEY]) not in READINGS:
        raise UsageError(f"method.{KEY}={reading}: allowed: {', '.join(READINGS)}")
    if reading != PRINTED:
        return
    for key, value in (loaded.get(PRINTED) or {}).items():
        if key not in loaded:
            raise UsageError(f"method {loaded['name']}: {PRINTED}.{key}: is none of its settings")
        source = origins[f"method.{key}"].source
        if source.startswith(("method ", "preset ")):
            method[key] = as_kind_of(f"method.{key}", value, loaded[key])
            origins[f"method.{key}"] = Origin(f"{PRINTED} of method {loaded['name']}")
