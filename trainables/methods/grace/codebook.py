"""GRACE's codebook: keys with radii, values, and the rule by which an edit changes it.

Source: Hartvigsen et al., "Aging with GRACE: Lifelong Model Editing with Discrete Key-Value
Adaptors" (arXiv:2211.11031). For a new key whose nearest entry j is at Euclidean distance d:
- d > deferral_radius + radius_j: the key is added with radius deferral_radius;
- else, other target: it is added, and both radii become half the distance (split);
- else, same target: radius_j grows to d if it was smaller; no entry is added (expand).

Here it grows a hair further: d is another in another batch, by rounding.

Deviations:
- Two targets are the same when their token ids are. Code in circulation compares the mean of the
  label ids, so that unlike targets can collide.
- Keys that differ by less than rounding does are equal: one prompt gives one key.

A key that comes again with another target is split like any other (`literal`): at distance 0 the
older entry's radius falls below 0 and the newer one's to 0, both are equally near, the older is
found first, and neither answers. The prompt is unedited again. `overwrite` lets the newer target
take the entry instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.interfaces import State

Change = Literal["added", "split", "expanded", "overwritten"]
OnEqualKey = Literal["literal", "overwrite"]
_SPLIT_MARGIN = 1e-5  # published: the older entry gives way by so much
# Of the key's norm: float32 noise between two runs of one prompt is far below. In half precision it
# is a few roundings of the dtype.
_SAME_KEY, _ROUNDINGS = 1e-4, 4


def same_key(dtype: torch.dtype) -> float:
    """Share of a key's norm by which two keys of one prompt may differ on a backbone of `dtype`."""
    return max(_SAME_KEY, _ROUNDINGS * torch.finfo(dtype).eps)


class Codebook:
    """Keys (N, F), values (N, D), radii (N,) and target token ids of N entries, aligned."""

    def __init__(
        self,
        key_size: int,
        value_size: int,
        device: torch.device,
        on_equal_key: OnEqualKey = "literal",
        rounding: float = _SAME_KEY,
    ) -> None:
        """No entry; `rounding` as `same_key` gives it."""
        # float32 whatever the backbone: in bfloat16 near keys would coincide.
        self.keys = torch.zeros(0, key_size, device=device)
        self.values = torch.zeros(0, value_size, device=device)
        self.radii = torch.zeros(0, device=device)
        self.labels: list[tuple[int, ...]] = []
        self._on_equal_key, self._rounding = on_equal_key, rounding

    def __len__(self) -> int:
        return len(self.labels)

    def lookup(self, queries: Tensor) -> Tensor:
        """Entry that answers each query (B, F): the nearest, if within its radius; else -1."""
        if not self.labels:
            return torch.full((len(queries),), -1, device=queries.device)
        distances = self._distances(queries)
        nearest = distances.argmin(1)  # of several at the same place, the first
        return torch.where(distances.amin(1) <= self.radii[nearest], nearest, -1)

    def change_for(
        self, key: Tensor, label: tuple[int, ...], deferral_radius: float
    ) -> tuple[Change, int, float]:
        """What `key` (F,) would do to the codebook, its nearest entry and the distance to it."""
        if not self.labels:
            return "added", -1, float("inf")
        distances = self._distances(key[None])[0]
        nearest = int(distances.argmin())
        distance, radius = float(distances[nearest]), float(self.radii[nearest])
        if distance > deferral_radius + radius:
            return "added", nearest, distance
        if self.labels[nearest] == label:
            return "expanded", nearest, distance
        if distance == 0.0 and self._on_equal_key == "overwrite":
            return "overwritten", nearest, distance
        return "split", nearest, distance

    def insert(
        self,
        key: Tensor,
        label: tuple[int, ...],
        deferral_radius: float,
        start: Callable[[], Tensor],
    ) -> tuple[Change, int]:
        """Apply the rule of the module's docstring; returns the change and the entry to train.

        Args:
            key: (F,).
            label: Target token ids.
            deferral_radius: Radius of a key far from all others.
            start: Gives the first value (D,) of a new or overwritten entry.
        """
        change, nearest, distance = self.change_for(key, label, deferral_radius)
        if change == "expanded":
            hair = self._rounding * float(key.float().norm()) if distance else 0.0
            self.radii[nearest] = max(float(self.radii[nearest]), distance + hair)
            return change, nearest
        if change == "overwritten":
            self.labels[nearest] = label
            self.values[nearest] = start()
            return change, nearest
        radius = deferral_radius
        if change == "split":
            radius = distance / 2
            self.radii[nearest] = radius - _SPLIT_MARGIN
            if distance == 0.0:
                key = self.keys[nearest]  # a tie to the last bit, as between two equal runs
        self.keys = torch.cat([self.keys, key[None].float()])
        self.values = torch.cat([self.values, start()[None].to(self.values)])
        self.radii = torch.cat([self.radii, self.radii.new_tensor([radius])])
        self.labels.append(label)
        return change, len(self.labels) - 1

    def state(self) -> State:
        """All entries."""
        tensors = {"keys": self.keys, "values": self.values, "radii": self.radii}
        return State(
            tensors=tensors,
            values={"labels": [list(label) for label in self.labels]},
        )

    def load(self, state: State) -> None:
        """Take the entries of `state`."""
        device = self.keys.device
        self.keys = state.tensors["keys"].to(device).clone()
        self.values = state.tensors["values"].to(device).clone()
        self.radii = state.tensors["radii"].to(device).clone()
        labels: Any = state.values["labels"]
        self.labels = [tuple(label) for label in labels]

    def _distances(self, queries: Tensor) -> Tensor:
        """Of each query (B, F) to each key, (B, N); 0 where rounding alone may part the two."""
        # Without the matrix-product form: its cancellation is as large as a small radius.
        mode = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(queries.float(), self.keys, compute_mode=mode)
        least = self._rounding * queries.float().norm(dim=1, keepdim=True)
        return torch.where(distances <= least, 0.0, distances)
