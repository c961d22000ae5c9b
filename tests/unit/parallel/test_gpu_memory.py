"""Shares of a GPU of which torch is told what the tests say: this machine may have none."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from trainables.parallel import gpu_memory
from trainables.parallel.gpu_memory import CONTEXT_BYTES, is_taken_by_others, keep_to_share

GIB = 2**30
TOTAL = 80 * GIB


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The fractions that torch is told, of one GPU of 80 GiB."""
    found: list[float] = []
    properties = SimpleNamespace(total_memory=TOTAL)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", found.append)
    return found


@pytest.mark.parametrize("count", [2, 3, 5, 50])
def test_shares_of_one_gpu_with_their_contexts_never_exceed_it(
    limits: list[float], count: int
) -> None:
    keep_to_share(1 / count)
    (fraction,) = limits
    assert count * (fraction * TOTAL + CONTEXT_BYTES) <= TOTAL + count or fraction == 0
    assert 0 <= fraction < 1 / count


@pytest.mark.parametrize("share", [1.0, 2.0])
def test_process_with_a_gpu_of_its_own_is_not_limited(limits: list[float], share: float) -> None:
    keep_to_share(share)
    assert limits == []


@pytest.mark.parametrize(
    ("reserved", "free", "is_taken"),
    [
        (15.0, 3.0, False),  # its own limit: 20 GiB are due, and what it lacks of them is there
        (5.0, 1.0, True),  # somebody holds 13 GiB of the 20
        (19.0, 0.0, False),  # it has nearly all that is due
    ],
)
def test_share_is_taken_where_own_and_free_memory_are_less(
    limits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    reserved: float,
    free: float,
    is_taken: bool,
) -> None:
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: int(reserved * GIB))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * GIB), TOTAL))
    assert is_taken_by_others(0.25) == is_taken


def test_allocator_grows_in_place_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    gpu_memory.grow_in_place()
    assert os.environ[names[1]] == "expandable_segments:True"
    monkeypatch.setenv(names[1], "backend:cudaMallocAsync")
    gpu_memory.grow_in_place()
    assert os.environ[names[1]] == "backend:cudaMallocAsync"
