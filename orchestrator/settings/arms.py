"""Which of an ablation's arms a choice on the command line leaves, and what is typed for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import UsageError

Arms = Mapping[str, Mapping[str, Any]]


def selected(
    arms: Arms, part: str, name: str, default: str, ablation: str
) -> dict[str, Mapping[str, Any]]:
    """The arms that use `name`; all of them where none chooses its own method (backbone, data set).

    An arm is its settings on one method: it cannot be asked for on another one.

    Args:
        arms: Settings of each arm.
        part: method, backbone or dataset.
        name: What was typed.
        default: What arms use that do not say.
        ablation: For the message.

    Raises:
        UsageError: If no arm uses it, with those that could be asked for.
    """
    if not any(part in settings for settings in arms.values()):
        return dict(arms)
    kept = {arm: settings for arm, settings in arms.items() if settings.get(part, default) == name}
    if not kept:
        listed = ", ".join(
            f"{arm} ({settings.get(part, default)})" for arm, settings in arms.items()
        )
        raise UsageError(
            f"{part}={name}: no arm of ablation={ablation} uses it; arms, each with its {part}: "
            f"{listed}"
        )
    return kept


def of_arms(typed: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What is typed as `method.<arm>.<key>=value`, by arm and key, and all else that is typed."""
    by_arm: dict[str, dict[str, Any]] = {}
    others: dict[str, Any] = {}
    for name, value in typed.items():
        part, _, rest = name.partition(".")
        arm, dot, key = rest.partition(".")
        if part == "method" and dot:
            by_arm.setdefault(arm, {})[key] = value
        else:
            others[name] = value
    return by_arm, others
