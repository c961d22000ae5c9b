"""The ablation that compares all editors leaves none out."""

from __future__ import annotations

import pytest

from orchestrator.planning.plan import expand
from orchestrator.planning.ranges import check_ranges
from orchestrator.settings import loading as config
from orchestrator.settings.yaml_files import SearchSpaces


@pytest.mark.parametrize("backbone", ["facts", "facts_gpt2", "facts_tiny", "facts_wd5"])
def test_everyone_has_settings_that_fit_every_backbone_of_the_made_up_world(backbone: str) -> None:
    for spec in expand(config.load(["ablation=everyone", f"backbone={backbone}"])).trials:
        check_ranges(spec)


@pytest.mark.parametrize("scale", ["quick", "paper"])
def test_everyone_runs_every_method_in_every_protocol(scale: str) -> None:
    spaces = SearchSpaces()
    settings = config.load(["ablation=everyone", f"scale={scale}", "seeds=[0]"])
    trials = expand(settings).trials
    by_protocol: dict[tuple[str, int], set[str]] = {}
    for spec in trials:
        protocol = (spec.protocol["kind"], spec.protocol["num_edits"])
        by_protocol.setdefault(protocol, set()).add(spec.method["name"])
    assert {kind for kind, _ in by_protocol} == {"single", "batch", "lifelong"}
    everyone = set(spaces.names("method"))
    for (kind, _), methods in by_protocol.items():
        # All edits of a batch at once is what MEMIT does anyway.
        assert methods == everyone - (set() if kind == "lifelong" else {"memit_mass"})
