"""Checks, before anything is loaded, that a plan's settings fit and its data are there.

A dry run and a sweep make the same checks, so that a dry run accepts only what a sweep can run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.planning.plan import Plan
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.settings.addresses import LOCAL
from orchestrator.settings.models import COMMAND_LINE, SweepConfig
from trainables.cache import default_cache
from trainables.errors import EditingError
from trainables.settings_check import SettingsCheck
from trainables.spec import TrialSpec as ToldSpec

_KEY = re.compile(r"method\.\w+")


def precheck(plan: Plan, check_data: Callable[[ToldSpec], object]) -> None:
    """Checks that each trial's method accepts its settings and that its data suffice.

    For a search it checks trials at the ends and choices of its axes.

    Args:
        plan: The trials that will run.
        check_data: Called with what each trial is told of its specification; raises EditingError.

    Raises:
        UsageError: For the first trial that cannot work; all settings are checked before any data.
    """
    settings = SettingsCheck(cache_of(plan.config), plan.compared_numbers)
    try:
        specs = [(spec, ToldSpec.parse(spec.to_dict())) for spec in plan.knowable]
        for spec, told in specs:
            try:
                settings.check(told)
            except EditingError as error:
                raise UsageError(f"{error}{_source_of(spec, str(error))}") from error
        for _, told in specs:
            check_data(told)
    except EditingError as error:
        raise UsageError(str(error)) from error


def cache_of(config: SweepConfig) -> Path:
    """Folder of embedded backbones and artefacts; the nodes of a cluster share one folder."""
    if config.cluster == LOCAL:
        return default_cache()
    return Path(config.store).resolve() / "cache"


def _source_of(spec: TrialSpec, complaint: str) -> str:
    """Source of the value that a complaint begins with; "" if it was typed."""
    key = _KEY.match(complaint)
    origin = spec.origins.get(key.group()) if key else None
    if origin is None or origin.source == COMMAND_LINE:
        return ""
    return f" ({origin.source})"
