"""What a Config takes for its fields, and what is said of the rest."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Interval, Le
from pydantic import ValidationError

from trainables.errors import ConfigError
from trainables.field_kinds import Count, CountOrZero, Positive, PositiveShare, Share, checked


@checked
class Config:
    """One field of every kind."""

    layer: int
    count: Count
    rest: CountOrZero | None
    rate: Positive
    decay: float | None
    share: Share
    density: PositiveShare
    warmup: Annotated[float, Interval(ge=0, lt=1)]
    most: Annotated[int, Le(8)]
    is_on: bool
    mode: Literal["first", "last"]
    layers: tuple[int, ...]
    text: str | None

    def __post_init__(self) -> None:
        if self.layer == self.count:
            raise ConfigError("method.layer is method.count")


GOOD: dict[str, Any] = {
    "layer": -3,
    "count": 1,
    "rest": None,
    "rate": 1e-3,
    "decay": None,
    "share": 1.0,
    "density": 1.0,
    "warmup": 0.0,
    "most": 8,
    "is_on": True,
    "mode": "last",
    "layers": (1, 2),
    "text": None,
}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("layer", "3", "method.layer is '3'; it must be a whole number"),
        ("layer", 2.0, "method.layer is 2.0; it must be a whole number"),
        ("layer", True, "method.layer is True; it must be a whole number"),
        ("layer", None, "method.layer is None; it must be a whole number"),
        ("layer", 2**63, "method.layer is 9223372036854775808; it must be a whole number"),
        ("count", 0, "method.count is 0; it must be at least 1"),
        ("count", 1.5, "method.count is 1.5; it must be a whole number"),
        ("rest", -1, "method.rest is -1; it must be at least 0 or null"),
        ("rest", "all", "method.rest is 'all'; it must be a whole number or null"),
        ("rate", 0, "method.rate is 0; it must be above 0"),
        ("rate", 0.0, "method.rate is 0.0; it must be above 0"),
        ("rate", float("nan"), "method.rate is nan; it must be a finite number"),
        ("rate", True, "method.rate is True; it must be a finite number"),
        ("decay", float("inf"), "method.decay is inf; it must be a finite number or null"),
        ("share", 1.5, "method.share is 1.5; it must lie in [0, 1]"),
        ("density", 0.0, "method.density is 0.0; it must lie in (0, 1]"),
        ("warmup", 1.0, "method.warmup is 1.0; it must lie in [0, 1)"),
        ("most", 9, "method.most is 9; it must be at most 8"),
        ("is_on", 1, "method.is_on is 1; it must be true or false"),
        ("mode", "middle", "method.mode is 'middle'; allowed: first, last"),
        ("mode", ["first"], "method.mode is ['first']; allowed: first, last"),
        ("layers", 1, "method.layers is 1; it must be a list, each a whole number"),
        ("layers", [1, "2"], "method.layers is [1, '2']; it must be a list, each a whole number"),
        ("text", 5, "method.text is 5; it must be a word or null"),
    ],
)
def test_value_when_it_does_not_fit_then_key_value_and_what_is_allowed_are_named(
    key: str, value: Any, says: str
) -> None:
    with pytest.raises(ConfigError) as error:
        Config(**GOOD | {key: value})
    assert str(error.value) == says


def test_values_when_they_fit_then_a_list_is_a_tuple_and_a_whole_number_does_for_a_float() -> None:
    config = Config(**GOOD | {"layers": [4, 5], "rate": 2})
    assert (config.layers, config.rate) == ((4, 5), 2.0)
    with pytest.raises(FrozenInstanceError):
        config.rate = 1.0  # type: ignore[misc]


def test_two_values_when_both_do_not_fit_then_the_first_field_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^method\.count is 0"):
        replace(Config(**GOOD), is_on=None, count=0)


def test_rule_between_fields_when_broken_then_its_own_words_are_said() -> None:
    with pytest.raises(ConfigError, match=r"^method\.layer is method\.count$"):
        replace(Config(**GOOD), layer=1)


@pytest.mark.parametrize("change", [{"kind": 3}, {"kind": 2**63}])
def test_field_when_there_is_no_such_then_the_call_is_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="kind"):
        Config(**GOOD | change)
    with pytest.raises(ValidationError, match="text"):
        Config(**{key: value for key, value in GOOD.items() if key != "text"})
