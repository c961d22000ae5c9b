"""Settings that were not swept and yet differ between the arms of a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import table
from analysis.aggregate import Arm
from analysis.published.claim_checks import find
from analysis.published.mixed import mixed_settings
from tests.unit.analysis_store import Writer
from tests.unit.comparisons import arm, check, section


def of(name: str, value: float, **settings: Any) -> Arm:
    """An arm that sweeps its top-k, with settings that are not swept."""
    swept = {"method.top_k": int(name)}
    return replace(arm(name, *[value] * 3, swept=swept), settings=settings)


FIVE, TEN, ONE = of("5", 0.5, edit_lr=0.003), of("10", 0.6, edit_lr=0.003), of("1", 0.1, edit_lr=1)
ABOVE = check({"method.top_k": "5"}, {"method.top_k": "1"})


def test_mixed_when_a_value_differs_then_key_values_and_arms() -> None:
    (found,) = mixed_settings([FIVE, TEN, ONE])
    assert (found.key, found.method) == ("method.edit_lr", "memoe_v1")
    assert found.holders == {"0.003": [FIVE, TEN], "1": [ONE]}
    assert str(found) == "method.edit_lr: 0.003, 1"


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "memit"},  # each method has its own
        {"context": {"dataset": "facts", "backbone": "gpt2_xl"}},  # and each backbone
        {"swept": {"method.top_k": 1, "method.reading": "printed"}},  # which stands for others
        {"settings": {"num_steps": 3}},  # swept in one of the two, or not known yet to its version
    ],
)
def test_mixed_when_values_may_differ_then_nothing_is_said(changed: Mapping[str, Any]) -> None:
    assert mixed_settings([FIVE, replace(ONE, **changed)]) == ()


def test_find_when_the_sides_differ_in_what_was_not_swept_then_no_verdict() -> None:
    made = find(ABOVE, section(FIVE, ONE), None)
    assert (made.verdict, made.difference) == ("undecided", None)
    assert made.why == "the arms differ in what was not swept, method.edit_lr: 0.003, 1"
    same = replace(ONE, settings={"edit_lr": 0.003})
    assert find(ABOVE, section(FIVE, same), None).verdict == "confirmed"


def test_find_when_pairs_differ_from_each_other_alone_then_the_verdict_has_a_caution() -> None:
    ranks = [
        replace(
            arm(f"{rank} {top}", *[rank / 100] * 3),
            swept={"method.lora_rank": rank, "method.top_k": top},
            settings={"edit_lr": 0.1 * top},
        )
        for rank in (16, 64)
        for top in (1, 5)
    ]
    wanted = check({"method.lora_rank": "64"}, {"method.lora_rank": "16"})
    made = find(wanted, section(*ranks), None)
    assert (made.verdict, made.num_pairs) == ("confirmed", 2)
    assert made.caution == "mixed method.edit_lr: 0.1, 0.5"
    assert find(wanted, section(*ranks[::2]), None).caution == ""


def test_find_when_orders_differ_in_what_was_not_swept_then_not_in_order_alone() -> None:
    orders = [
        replace(arm(str(n), 0.1 * n, swept={"protocol.order_seed": n}), settings={"edit_lr": n})
        for n in range(2)
    ]
    wanted = check({"method": "memoe_v1"}, {"method": "memoe_v1"}, relation="spreads", by=0.1)
    made = find(wanted, section(*orders), None)
    assert made.why == "the arms differ in method.edit_lr, and not in order alone"


def test_table_when_commands_set_a_rate_otherwise_then_a_line_names_it_with_the_arms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write = Writer(tmp_path)
    for top, rate in ((5, 0.003), (10, 0.003), (1, 0.05)):
        settings = {"name": "lemoe_lora", "edit_lr": rate, "top_k": top, "num_steps": 40}
        tags = {"paper": "mine", "swept": {"method.top_k": top}, "method_config": settings}
        write.trial("mine", f"top_k={top}", 0, (0.5, 0.5, 0.5), **tags)
    write.trial("mine", "ft_m", 0, (0.5, 0.5, 0.5), paper="mine", method="ft_m")
    assert table.main(["mine", f"store={tmp_path}"]) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "mixed method" in each]
    assert line.startswith(
        "- mixed method.edit_lr of lemoe_lora: 0.003 (top_k=10, top_k=5), 0.05 (top_k=1); "
    )


def test_table_when_settings_cannot_be_read_then_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = {"paper": "mine", "method_config": '{"edit_lr": 0.'}
    Writer(tmp_path).trial("mine", "cut", 0, (0.5, 0.5, 0.5), **tags)
    assert table.main(["mine", f"store={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "tag method_config" in error
    assert error.count("\n") == 1
