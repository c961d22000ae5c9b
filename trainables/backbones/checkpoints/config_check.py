"""Says in one line why a checkpoint cannot be edited here, from its config.json alone.

Nothing here loads torch: a plan asks, too, and must give the same answer as a trial.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

# Under which a config.json says how many experts an FFN has; Mixtral, Qwen, DeepSeek, ERNIE, DBRX.
_EXPERTS = re.compile(r"(?:moe_)?(?:n|num)_(?:local_|routed_)?experts")


def why_unknown(config: Mapping[str, Any], known: Iterable[str]) -> str | None:
    """Why the model is of no known family; None if it is of one."""
    model_type, names = config.get("model_type"), tuple(known)
    if model_type in names:
        return None
    wrapped = config.get("text_config")
    inner = wrapped if isinstance(wrapped, dict) else {}
    reason = "is not known"
    count = _num_experts(config) or _num_experts(inner)
    if count is not None:
        reason = (
            f"is a mixture of {count} experts a layer, whose weights are stacked; "
            "methods edit the one FFN of a layer, or stand beside it"
        )
    elif inner:
        reason = (
            f"is a language model ({inner.get('model_type')}) inside one of images or sound; "
            "give the language model alone"
        )
    return f"model_type {model_type!r} {reason}; known: {', '.join(names)}"


def why_unfit(config: Mapping[str, Any], requires: Mapping[str, Any]) -> str | None:
    """Which setting of a known family has another value than the one that is edited here."""
    for key, due in requires.items():
        if config.get(key, due) not in (due, None):
            return (
                f"config.json has {key}={json.dumps(config[key])}; of family "
                f"{config.get('model_type')!r} only models with {key}={json.dumps(due)} are edited"
            )
    return None


def _num_experts(config: Mapping[str, Any]) -> int | None:
    return next(
        (
            value
            for key, value in config.items()
            if _EXPERTS.fullmatch(key) and isinstance(value, int) and value > 1
        ),
        None,
    )
