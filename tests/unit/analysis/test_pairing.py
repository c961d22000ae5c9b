"""Which arms a comparison pairs when their protocols differ, and what the differences come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from analysis.aggregate import Arm
from analysis.published.claim_checks import find
from analysis.published.pairing import pairs
from tests.unit.comparisons import arm, check, section

BATCH = {"kind": "batch", "num_edits": 30, "edit_batch_size": 30, "num_batches": 3, "order": "x"}
LARGE = BATCH | {"num_edits": 100, "edit_batch_size": 100}
STREAM = {"kind": "lifelong", "num_edits": 100, "edit_batch_size": 10, "num_batches": 10}
LONG = STREAM | {"num_edits": 1000, "num_batches": 100}
BY_METHOD = check({"method": "memoe_v1"}, {"method": "memit"})


def of(method: str, protocol: Mapping[str, Any], *values: float, swept: Sequence[str] = ()) -> Arm:
    """An arm of a method under a protocol, some keys of which were swept."""
    own = {"method": method, **{f"protocol.{name}": protocol[name] for name in swept}}
    name = f"{method} {protocol.get('num_edits')}"
    made = arm(name, *(values or (0.5, 0.5, 0.5)), method=method, swept=own)
    return replace(made, protocol=dict(protocol))


def found(arms: Sequence[Arm], comparison: Any = BY_METHOD) -> list[tuple[str, str]]:
    return [(one.name, other.name) for one, other in pairs(comparison, arms)]


@pytest.mark.parametrize("newest", [0, 1])
def test_pairs_when_two_protocols_were_run_then_those_of_one_meet(newest: int) -> None:
    arms = [
        of(method, protocol)
        for protocol in ([BATCH, LARGE], [LARGE, BATCH])[newest]
        for method in ("memit", "memoe_v1")
    ]
    assert sorted(found(arms)) == [
        ("memoe_v1 100", "memit 100"),
        ("memoe_v1 30", "memit 30"),
    ]


def test_find_when_the_harder_protocol_ran_last_then_the_sign_is_that_within_each() -> None:
    # .05 below within either protocol, .35 above across them.
    arms = [
        *(of("memit", BATCH, 0.95, 0.95, 0.95), of("memoe_v1", BATCH, 0.9, 0.9, 0.9)),
        *(of("memit", LARGE, 0.55, 0.55, 0.55), of("memoe_v1", LARGE, 0.5, 0.5, 0.5)),
    ]
    made = find(BY_METHOD, section(*arms), None)
    assert made.difference is not None
    assert made.difference.mean == pytest.approx(-0.05)
    assert (made.verdict, made.num_pairs) == ("refuted", 2)


def test_find_when_two_seeds_of_two_protocols_then_questions_agree_and_there_is_an_interval() -> (
    None
):
    def asked(address: str, dataset: str) -> pd.DataFrame:
        """Four subjects for each size, questions of their own, all answered by memit alone."""
        name = address.partition("/")[0]
        hit = float(name.startswith("memit"))
        lines = [
            (who, "reliability", who, f"Who is {who}?", hit)
            for who in (f"{name.split()[1]}-{number}" for number in range(4))
        ]
        return pd.DataFrame(lines, columns=["record_id", "score", "subject", "prompt", "token"])

    arms = [
        of(method, protocol, value, value)
        for protocol in (BATCH, LARGE)
        for method, value in (("memit", 1.0), ("memoe_v1", 0.0))
    ]
    made = find(BY_METHOD, section(*arms), asked)
    assert made.difference is not None
    assert (made.difference.low, made.difference.high) == (-1.0, -1.0)
    assert (made.difference.source, made.verdict) == ("bootstrap", "refuted")


def test_find_when_no_two_arms_share_a_protocol_then_it_is_not_judged_and_says_why() -> None:
    made = find(BY_METHOD, section(of("memit", BATCH), of("memoe_v1", LARGE)), None)
    assert (made.verdict, made.difference) == ("not run", None)
    assert made.why.startswith("no two such arms of one protocol")


def test_pairs_when_samples_of_batches_differ_then_they_are_other_edits() -> None:
    eleven = BATCH | {"num_batches": 11}
    arms = [of("memit", BATCH), of("memit", eleven), of("memoe_v1", eleven)]
    (pair,) = pairs(BY_METHOD, arms)
    assert pair[1].protocol["num_batches"] == 11


def test_pairs_when_a_method_has_batches_and_an_order_of_its_own_then_it_is_compared() -> None:
    ones = {"edit_batch_size": 1, "order": "given"}
    own = [STREAM | {"order": "kmeans"}, LONG | {"order": "kmeans"}]
    others = [STREAM | ones | {"num_batches": 100}, LONG | ones | {"num_batches": 1000}]
    arms = [of("memoe_v1", each) for each in own] + [of("memit", each) for each in others]
    by_size = [("memoe_v1 100", "memit 100"), ("memoe_v1 1000", "memit 1000")]
    assert found(arms) == by_size
    swept = ["num_edits"]
    arms = [of(each.method, each.protocol, swept=swept) for each in arms]
    assert found(arms) == by_size


def test_pairs_when_several_batch_sizes_were_run_then_the_same_ones_meet() -> None:
    twenty = STREAM | {"edit_batch_size": 20, "num_batches": 5}
    arms = [of(name, each) for name in ("memoe_v1", "memit") for each in (STREAM, twenty)]
    met = [
        (one.protocol["edit_batch_size"], other.protocol["edit_batch_size"])
        for one, other in pairs(BY_METHOD, arms)
    ]
    assert met == [(10, 10), (20, 20)]


def test_pairs_when_one_arm_meets_several_then_none_is_dropped() -> None:
    sizes = [1, 2]
    several = [of("memit", STREAM | {"edit_batch_size": n, "num_batches": 0}) for n in sizes]
    met = pairs(BY_METHOD, [of("memoe_v1", STREAM), *several])
    assert [other.protocol["edit_batch_size"] for _, other in met] == sizes


def test_pairs_when_two_sizes_stand_for_one_published_then_each_meets_its_own() -> None:
    arms = [
        replace(
            of(method, STREAM | {"num_edits": size}, swept=["num_edits"]),
            published={"protocol.num_edits": [100]},
        )
        for size in (20, 100)
        for method in ("memit", "memoe_v1")
    ]
    wanted = replace(BY_METHOD, where={"protocol.num_edits": "100"})
    assert found(arms, wanted) == [("memoe_v1 20", "memit 20"), ("memoe_v1 100", "memit 100")]


def test_pairs_when_arms_name_protocols_then_what_follows_may_differ() -> None:
    keys = ("kind", "num_edits")
    batch, stream = (
        replace(of("memoe_v2", each, swept=keys), name=name)
        for name, each in (("batch", BATCH), ("stream", STREAM))
    )
    batch, stream = (
        replace(each, swept={**each.swept, "arm": each.name}) for each in (batch, stream)
    )
    assert pairs(check({"arm": "batch"}, {"arm": "stream"}), [batch, stream]) == ((batch, stream),)


def test_pairs_when_one_side_alone_is_named_then_each_arm_meets_itself() -> None:
    arms = [of("memit", BATCH), of("memit", LARGE)]
    assert found(arms, check({"method": "memit"}, {"method": "memit"})) == [
        ("memit 30", "memit 30"),
        ("memit 100", "memit 100"),
    ]


def test_find_when_orders_are_of_two_sizes_then_nothing_is_said_of_their_spread() -> None:
    orders = [
        replace(
            of("memit", protocol | {"order_seed": n}, 0.1 * n),
            swept={"protocol.order_seed": n},
        )
        for protocol in (STREAM, LONG)
        for n in range(3)
    ]
    wanted = check({"method": "memit"}, {"method": "memit"}, relation="spreads", by=0.1)
    made = find(wanted, section(*orders), None)
    assert made.difference is None
    assert made.why == "the arms differ in protocol.num_edits, and not in order alone"
    assert find(wanted, section(*orders[:3]), None).difference is not None
