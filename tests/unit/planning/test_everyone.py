"""The ablation that compares all editors leaves none out."""

from __future__ import annotations

import pytest

from orchestrator.errors import UsageError
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


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ("rome", "edit_layer={}"),
        ("memit", "layers=[14,{}]"),
        ("alphaedit", "layers=[{}]"),
        ("comeba_hk", "layers=[{}]"),
    ],
)
def test_last_layer_when_a_method_edits_what_later_tokens_read_then_it_is_refused_in_the_plan(
    method: str, key: str
) -> None:
    def typed(layer: int) -> list[str]:
        return ["ablation=lemoe_forgetting", f"method={method}", f"method.{key.format(layer)}"]

    expand(config.load(typed(13)))
    with pytest.raises(UsageError, match=r"=15: .* allowed: 0 to 14"):
        expand(config.load(typed(15)))


def test_last_layer_when_a_method_adds_to_the_answer_itself_then_it_is_allowed() -> None:
    expand(config.load(["ablation=lemoe_forgetting", "method=grace", "method.edit_layer=15"]))
