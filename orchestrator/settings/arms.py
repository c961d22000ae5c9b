"""Selects the arms of an ablation that fit a typed choice; finds the values typed for an arm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import UsageError

Arms = Mapping[str, Mapping[str, Any]]


def selected(
    arms: Arms, part: str, name: str, default: str, ablation: str
) -> dict[str, Mapping[str, Any]]:
    """The arms that use `name`; all arms if none chooses its own method (backbone, data set).

    An arm is a set of values for one method, so it cannot run on another one.

    Args:
        arms: Settings of each arm.
        part: method, backbone or dataset.
        name: What was typed.
        default: What an arm uses that does not choose.
        ablation: Name of the ablation, for the message.

    Raises:
        UsageError: If no arm uses it; the message lists what arms use.
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
    """Values typed as `method.<arm>.<key>=value`, by arm and key, and all other typed values."""
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
