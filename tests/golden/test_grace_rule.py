"""GRACE's codebook against a plain-Python model, over random sequences of edits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.methods.grace.codebook import Codebook

from . import reference_grace

# Irregular coordinates: on a lattice, ties between equally near keys would decide by rounding.
COORDINATES = st.integers(0, 60).map(lambda n: n * 0.11 + (n * n % 7) * 0.013)
KEYS = st.tuples(COORDINATES, COORDINATES)
LABELS = st.sampled_from([(5,), (6, 7), (6,)])
EPSILON = 1.0


def is_ambiguous(entries: list[reference_grace.Entry], key: tuple[float, float]) -> bool:
    """Whether float32 rounding could decide: two keys equally near, or a distance on a bound."""
    distances = sorted(reference_grace.distance(entry.key, key) for entry in entries)
    if len(distances) > 1 and distances[1] - distances[0] < 1e-4:
        return True
    index, d = reference_grace.nearest(entries, key)
    if index < 0:
        return False
    radius = entries[index].radius
    return 0 < d < 1e-3 or abs(d - radius) < 1e-4 or abs(d - EPSILON - radius) < 1e-4


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(KEYS, LABELS), max_size=25),
    st.lists(KEYS, max_size=10),
    st.sampled_from(["literal", "overwrite"]),
)
def test_codebook_when_edits_follow_each_other_then_as_in_the_plain_model(
    edits: list[tuple[tuple[float, float], tuple[int, ...]]],
    queries: list[tuple[float, float]],
    on_equal_key: Any,
) -> None:
    # The rule as published: nothing is allowed for keys that rounding parts.
    book, entries = Codebook(2, 1, torch.device("cpu"), on_equal_key, rounding=0.0), []
    values: list[float] = []
    for number, (key, label) in enumerate(edits):
        if is_ambiguous(entries, key):
            continue
        expected = reference_grace.insert(entries, key, label, EPSILON, on_equal_key)
        start = torch.tensor([float(number)])
        assert book.insert(torch.tensor(key), label, EPSILON, lambda start=start: start) == expected
        change, index = expected
        if change in ("added", "split"):
            values.append(float(number))
        elif change == "overwritten":
            values[index] = float(number)
    assert book.labels == [entry.label for entry in entries]
    assert book.values[:, 0].tolist() == values
    assert len(book.keys) == len(book.values) == len(book.radii) == len(entries)
    for index, entry in enumerate(entries):
        assert book.keys[index].tolist() == pytest.approx(entry.key, abs=1e-6)
        assert float(book.radii[index]) == pytest.approx(entry.radius, abs=1e-5)
    clear = [query for query in queries if not is_ambiguous(entries, query)]
    if clear:
        found = book.lookup(torch.tensor(clear)).tolist()
        assert found == [reference_grace.lookup(entries, query) for query in clear]
