"""Records which experts a trial's prompts are sent to, and computes the routing scores.

A method may tell its routes in two ways: `Routed` for whole prompts, `TokenRouted` for each token.
Where it offers both, the routes of the tokens are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from trainables.interfaces import EditMethod, PromptBatch
from trainables.metrics.evaluator import Evaluator
from trainables.metrics.routing import (
    group_consistency,
    largest_load,
    majority_expert,
    routing_consistency,
    routing_matrix,
    routing_purity,
)
from trainables.metrics.scores import own_expert_rate

Experts = tuple[int, ...]
_MOST_EXPERTS = 64  # of a routing matrix in the file of per-record results


@runtime_checkable
class Routed(Protocol):
    """A method that sends each prompt to an expert."""

    def routes(self, prompts: PromptBatch) -> Tensor:
        """Expert that answers each prompt at inference, (B,); -1 for none."""
        ...

    def trained_routes(self) -> Sequence[int]:
        """Expert that holds each edit so far, in the order of the edits; -1 for none."""
        ...


@runtime_checkable
class TokenRouted(Protocol):
    """A method that sends each token to an expert."""

    def token_routes(self, prompts: PromptBatch) -> Tensor:
        """Expert with the largest gate for each prompt token at inference, (B, T); -1 elsewhere."""
        ...


@dataclass(frozen=True)
class RouteRow:
    """The experts of one prompt.

    Attributes:
        record: Index of the record.
        score: `reliability` for the edit's own prompt, `generality` for a rephrase.
        prompt: Its text.
        experts: Top-1 expert of each prompt token, or the one of the whole prompt.
        trained: The same right after the edit was learned; of edits alone.
        part: Number of the method in the trial: each batch that is rolled back had its own experts.
    """

    record: int
    score: str
    prompt: str
    experts: Experts
    trained: Experts | None = None
    part: int = 0


@torch.no_grad()
def experts_of(method: EditMethod, evaluator: Evaluator, chosen: Sequence[int]) -> list[Experts]:
    """The experts of each chosen probe's prompt; empty for a method that routes nothing."""
    found: list[Experts] = []
    for prompts in evaluator.prompt_batches(chosen):
        if isinstance(method, TokenRouted):
            routes, mask = method.token_routes(prompts), prompts.prompt_mask
            found += [tuple(row[inside].tolist()) for row, inside in zip(routes, mask, strict=True)]
        elif isinstance(method, Routed):
            found += [(int(expert),) for expert in method.routes(prompts)]
    return found


def route_rows(
    method: EditMethod, evaluator: Evaluator, records: Sequence[int], part: int = 0
) -> list[RouteRow]:
    """Where the edits and the rephrases of `records` are sent now."""
    if not isinstance(method, Routed | TokenRouted):
        return []
    chosen = evaluator.select(records, ["reliability", "generality"])
    probes = [evaluator.probes[index] for index in chosen]
    return [
        RouteRow(probe.record, probe.score, probe.prompt, experts, part=part)
        for probe, experts in zip(probes, experts_of(method, evaluator, chosen), strict=True)
    ]


def learned(rows: Sequence[RouteRow], trained: Mapping[int, Experts]) -> list[RouteRow]:
    """`rows` in which every edit knows the experts that learned it."""
    return [
        replace(row, trained=trained.get(row.record)) if row.score == "reliability" else row
        for row in rows
    ]


def route_numbers(rows: Sequence[RouteRow], groups: Sequence[int]) -> dict[str, float]:
    """The routing scores of a trial's row; none where nothing is routed.

    - `routing_consistency`: same knowledge, the mean over records of that of their rephrases.
    - `routing_consistency_similar`: similar knowledge, over the groups of the edits.
    - `routing_purity`: mean over edits.
    - `largest_load`: over the prompt tokens (or prompts) of the edits.
    - `own_expert_rate`: share of the edits that go to the expert of most of their tokens when they
      were learned, or to the one that holds them now where a method tells that itself. Edits that
      no expert holds, as they were answered before, do not count.

    Load and similar knowledge are taken within a part and averaged over parts: experts of different
    parts have nothing in common.

    Args:
        rows: Of `route_rows`.
        groups: Group of similar knowledge of each record.
    """
    edits = [row for row in rows if row.score == "reliability"]
    if not edits:
        return {}
    numbers: dict[str, list[float | None]] = {}
    for part in dict.fromkeys(row.part for row in edits):
        own = [row for row in edits if row.part == part]
        vectors = [torch.tensor(row.experts) for row in own]
        found: dict[str, float | None] = {
            "routing_consistency_similar": group_consistency(
                vectors, [groups[row.record] for row in own]
            ),
            "largest_load": largest_load(vectors),
        }
        for name, value in found.items():
            numbers.setdefault(name, []).append(value)
    numbers["routing_purity"] = [routing_purity(torch.tensor(row.experts)) for row in edits]
    numbers["routing_consistency"] = _consistencies(rows, edits)
    known = {
        name: [value for value in values if value is not None] for name, values in numbers.items()
    }
    result = {name: mean(values) for name, values in known.items() if values}
    pairs = [(_majority(row.trained), _majority(row.experts)) for row in edits if row.trained]
    held = [pair for pair in pairs if pair[0] >= 0]
    if held:
        before, now = torch.tensor(held).T
        result["own_expert_rate"] = own_expert_rate(before, now) or 0.0
    return result


def num_experts_used(trained: Mapping[int, Experts], parts: Mapping[int, int]) -> float | None:
    """How many experts hold an edit, the mean over parts; None where no edit has an expert.

    An edit of which most tokens have one expert is held by that.

    Args:
        trained: Experts of each edit, by record; -1 of one that none holds.
        parts: Part of each record, which is 0 where it is not there.
    """
    used: dict[int, set[int]] = {}
    for record, experts in trained.items():
        if (expert := _majority(experts)) >= 0:
            used.setdefault(parts.get(record, 0), set()).add(expert)
    return mean(map(len, used.values())) if used else None


def routing_matrices(rows: Sequence[RouteRow]) -> list[dict[str, Any]]:
    """For each part `part`, `matrix` (E x E lists) and `learned`, the inputs of each expert.

    The matrix is that of `routing_matrix`, over prompt tokens or whole prompts; E counts every
    expert that has learned or answered anything. Parts with more experts than `_MOST_EXPERTS` are
    left out: where every edit has an entry of its own, the matrix is as large as their square.
    """
    found = []
    for part in dict.fromkeys(row.part for row in rows):
        own = [row for row in rows if row.part == part and row.trained is not None]
        trained = torch.tensor([expert for row in own for expert in row.trained or ()])
        routed = torch.tensor([expert for row in own for expert in row.experts])
        num_experts = int(torch.cat([trained, routed]).max()) + 1 if own else 0
        if 0 < num_experts <= _MOST_EXPERTS:
            counts = torch.bincount(trained[trained >= 0], minlength=num_experts)
            matrix = routing_matrix(trained, routed, num_experts)
            found.append({"part": part, "matrix": matrix.tolist(), "learned": counts.tolist()})
    return found


def same_expert_rate(trained: Sequence[tuple[int, Experts]]) -> float | None:
    """Share of repeated edits that lie with the expert of the edit before.

    Args:
        trained: Question and experts of each edit, in the order of the edits: those that learned
            it, or the one that holds it now where a method tells that itself, so that experts that
            were merged since are one.

    Returns:
        None where no question is edited twice.
    """
    last: dict[int, int] = {}
    kept: list[float] = []
    for question, experts in trained:
        expert = _majority(experts)
        if question in last:
            kept.append(float(last[question] == expert))
        last[question] = expert
    return mean(kept) if kept else None


def _consistencies(rows: Sequence[RouteRow], edits: Sequence[RouteRow]) -> list[float | None]:
    """Mean routing consistency of the rephrases of each record that has some."""
    own = {(row.part, row.record): torch.tensor(row.experts) for row in edits}
    shares: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        if row.score == "generality":
            share = routing_consistency(own[row.part, row.record], torch.tensor(row.experts))
            shares.setdefault((row.part, row.record), []).append(share)
    return [mean(values) for values in shares.values()]


def _majority(experts: Experts) -> int:
    return majority_expert(torch.tensor(experts))
