"""What is read without hydra is what hydra reads."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.settings.composition import plain
from orchestrator.settings.simple_values import NotSimpleError, simple_value

ITEMS = st.text(alphabet="aeEnuls01.-_/+,[]: ", min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(
    typed=ITEMS | st.lists(ITEMS, min_size=1, max_size=3).map(lambda each: f"[{','.join(each)}]")
)
@example(typed="lemoe_lora")
@example(typed="/a/b.c/d.json")
@example(typed="[0,1,2]")
@example(typed="[1e-3,-5,ft_m]")
@example(typed="-0")
@example(typed="007")
@example(typed="1e5")
@example(typed="0.5")
@example(typed="5.")
@example(typed="True")
@example(typed="NaN")
@example(typed="[null]")
@example(typed="[a,]")
@example(typed="-inf")
@example(typed="//")
def test_simple_value_when_it_reads_something_then_hydra_reads_the_same(typed: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        ours = simple_value(typed)
    except NotSimpleError:
        return
    override = OverridesParser.create().parse_override(f"key={typed}")
    assert not override.is_sweep_override()
    theirs = plain(override.value())
    assert repr(ours) == repr(theirs)  # and of the same type


@pytest.mark.parametrize("typed", ["", "null", "a b", "'a'", "{a:1}", "1,2", "[[1]]", "a=b", "~"])
def test_simple_value_when_it_may_be_more_then_it_is_left_to_hydra(typed: str) -> None:
    with pytest.raises(NotSimpleError):
        simple_value(typed)


def test_simple_value_when_common_then_hydra_is_not_asked() -> None:
    assert simple_value("lemoe_lora") == "lemoe_lora"
    assert simple_value("[0,1,2]") == [0, 1, 2]
    assert simple_value("1e-3") == 0.001
