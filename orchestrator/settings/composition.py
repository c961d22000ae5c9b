"""Merges the files of one sweep, by the part of hydra's language that is used here.

That part is: the defaults list of `config.yaml` with `_self_` first, `override /group: name` in an
ablation, and `# @package _global_` on line 1 of ablations and scales. Hydra itself takes a tenth of
a second for each composition, and `--list` makes a dozen; the tests compare the two on every
ablation in every scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.settings.yaml_files import GROUPS, SearchSpaces

_GLOBAL = (
    "scale",
    "ablation",
)  # their keys stand at the top; those of other groups below the group's name
_HEADER = "# @package _global_"


def compose(
    spaces: SearchSpaces, chosen: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The merged files as one mapping, and the choice made in every group.

    A group is chosen by `chosen`, else by the ablation's `override` line, else by config.yaml.
    Files are merged in the order of config.yaml's defaults list, so that a later one wins.

    Raises:
        UsageError: For an unknown name, or a file outside the language above.
    """
    order, choices = _defaults(spaces)
    choices = own_choices(spaces, chosen.get("ablation") or choices["ablation"]) | dict(chosen)
    values = {key: _copy(value) for key, value in spaces.root().items() if key != "defaults"}
    for group in order:
        loaded = {
            key: value
            for key, value in spaces.load(group, choices[group]).items()
            if key != "defaults"
        }
        if group in _GLOBAL:
            _check_header(spaces, group, choices[group])
        merge(values, loaded if group in _GLOBAL else {group: loaded})
    return values, choices


def own_choices(spaces: SearchSpaces, ablation: str) -> dict[str, str]:
    """The choice in every group that an ablation makes where nothing else is chosen."""
    return _defaults(spaces)[1] | _overrides(spaces, ablation)


def merge(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    """Lays a copy of `above` over `below` in place; mappings are merged, all else is replaced."""
    for key, value in above.items():
        inner = below.get(key)
        if isinstance(inner, dict) and isinstance(value, Mapping):
            merge(inner, value)
        else:
            below[key] = _copy(value)


def _copy(value: Any) -> Any:
    """What a YAML file holds, copied; a fifth of the time of `copy.deepcopy`."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _defaults(spaces: SearchSpaces) -> tuple[list[str], dict[str, str]]:
    """Groups in the order of config.yaml's defaults list, and its choices."""
    entries = spaces.root().get("defaults") or []
    if not entries or entries[0] != "_self_":
        raise UsageError(
            "config.yaml: _self_ must come first in `defaults`, or its values beat the ablation's"
        )
    choices: dict[str, str] = {}
    for entry in entries[1:]:
        if not isinstance(entry, dict) or len(entry) != 1 or set(entry) - set(GROUPS):
            raise UsageError(
                f"config.yaml: {entry!r} in `defaults` is not 'group: name'; "
                f"groups: {', '.join(GROUPS)}"
            )
        choices.update({str(group): str(name) for group, name in entry.items()})
    if missing := set(GROUPS) - set(choices):
        raise UsageError(f"config.yaml: `defaults` lacks {', '.join(sorted(missing))}")
    return list(choices), choices


def _overrides(spaces: SearchSpaces, ablation: str) -> dict[str, str]:
    """Choices that the ablation's own defaults list makes."""
    choices: dict[str, str] = {}
    for entry in spaces.load("ablation", ablation).get("defaults") or []:
        item = (
            next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else ("", "")
        )
        group = str(item[0]).removeprefix("override /")
        if item[0] != f"override /{group}" or group not in GROUPS:
            raise UsageError(
                f"ablation={ablation}: {entry!r} in `defaults` is not 'override /group: name'"
            )
        choices[group] = str(item[1])
    return choices


def _check_header(spaces: SearchSpaces, group: str, name: str) -> None:
    if spaces.first_line(group, name) != _HEADER:
        raise UsageError(
            f"{group}={name}: line 1 of its file must be '{_HEADER}', or its keys go astray"
        )


def plain(value: Any) -> Any:
    """Hydra's quoted strings and nested values as plain ones."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, bool | int | float) else _text(value)


def _text(value: Any) -> str:
    return str(getattr(value, "text", value))
