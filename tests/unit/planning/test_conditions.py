from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.conditions import Condition

VALUES: dict[str, Any] = {"method.a": 4, "method.b": 10, "method.none": None, "method": "moe"}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("method.a <= method.b", True),
        ("method.b < method.a", False),
        ("method.a * 2 + 2 == method.b", True),  # 4 * 2 + 2 = 10
        ("method.b / method.a - 2.5 != 0", False),  # 10 / 4 - 2.5 = 0
        ("-method.a > -5", True),
        ("1 < method.a < 4", False),
        ("method.a > 9 or method.b > 9", True),
        ("method.a > 9 and method.b > 9", False),
        ("method == 'moe'", True),
        ("method.none > 3", True),  # null says nothing
        ("method.absent > 3", True),  # nor does what this method lacks
    ],
)
def test_condition_when_read_then_it_holds_as_arithmetic_says(text: str, holds: bool) -> None:
    assert Condition(text).is_met(VALUES.__getitem__) is holds


def test_condition_when_read_then_it_knows_its_keys() -> None:
    assert Condition("method.a + 1 <= method.b or method == 'x'").keys == {
        "method.a",
        "method.b",
        "method",
    }


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("method.a", "compares nothing"),
        ("method.a <", "not a comparison"),
        ("open('x') == 1", r"open\('x'\)"),
        ("method.a ** 99 > 1", r"\*\* 99"),
        ("method.a[0] > 1", "not allowed"),
        ("(lambda: 1) > 1", "not allowed"),
        ("method.a in method.b", "not allowed"),
        ("f().a > 1", "not a dotted key"),
    ],
)
def test_condition_when_it_is_more_than_a_comparison_then_it_is_refused(
    text: str, part: str
) -> None:
    with pytest.raises(UsageError, match=part):
        Condition(text)


@pytest.mark.parametrize("text", ["method.a < method", "method.a / 0 > 1"])
def test_condition_when_values_cannot_be_compared_then_it_says_so(text: str) -> None:
    with pytest.raises(UsageError, match="fails for"):
        Condition(text).is_met(VALUES.__getitem__)
