"""Arms, sections and comparisons as published claims make them, few numbers each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.aggregate import Arm, Section, estimate
from analysis.published.claim_list import Check


def arm(name: str, *values: float, **more: Any) -> Arm:
    """An arm with these reliabilities for seeds 0, 1, ..., and perhaps a similarity."""
    swept = more.pop("swept", {"arm": name})
    scores = {"reliability": estimate(values)} if values else {}
    if "similarity" in more:
        scores["within_batch_similarity"] = estimate([more.pop("similarity")])
    return Arm(
        name=name,
        method=more.pop("method", "memoe_v1"),
        ablation="a",
        swept=swept,
        published=more.pop("published", {}),
        protocol={},
        seeds=tuple(range(len(values))),
        num_layers=more.pop("num_layers", 32),  # as of the papers' backbone
        hidden_size=more.pop("hidden_size", 4096),
        state=more.pop("state", ""),
        scores=scores,
        before={},
        errors=(),
        context={"dataset": "facts"},
        records=tuple(f"{name}/{seed}" for seed in range(len(values))),
    )


def check(first: Mapping[str, str], second: Mapping[str, str], **more: Any) -> Check:
    """First above second in reliability."""
    values: dict[str, Any] = {"where": {}, "relation": "above", "by": 0.0}
    values |= {"score": "reliability", "second_score": "reliability"} | more
    return Check(*("x.c1", "a"), first=first, second=second, **values)


def section(*arms: Arm) -> Section:
    return Section({}, {}, arms, {}, 0)
