"""Independent generators from one trial seed; nothing here touches a global seed."""

from __future__ import annotations

import hashlib

import torch

from trainables.interfaces import Generators


def derived_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed that depends on both arguments and on nothing else.

    Hashing keeps the streams of one trial independent, and those of neighbouring seeds too.
    """
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of one trial."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose))


def trial_generators(seed: int) -> Generators:
    """The generators that a method receives; the draw and the order of edits have their own."""
    return Generators(init=generator(seed, "init"), noise=generator(seed, "noise"))
