"""How MEND meets what the papers state of it: an update of rank 1 for each token."""

from __future__ import annotations

from collections.abc import Callable

import torch

from trainables.methods.mend import RankOneSum


def gradient_rank(paper: str, stated: str) -> None:
    """What MEND adds to a weight for one token has the stated rank."""
    generator = torch.Generator().manual_seed(0)
    keys, deltas = (torch.randn(1, size, generator=generator) for size in (5, 3))
    change = RankOneSum(1, 1.0).shift(0, keys, (keys, deltas)).detach()
    assert int(torch.linalg.matrix_rank(change)) == float(stated)


MET_BY_NETWORKS: dict[tuple[str, str, str], Callable[[str, str], None]] = {
    (paper, "MEND", "gradient_rank"): gradient_rank for paper in ("memoe_v1", "memoe_v2", "lemoe")
}
