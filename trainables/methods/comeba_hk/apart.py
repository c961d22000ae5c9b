"""Edits of COMEBA-HK that are each rolled back: found side by side, each behind its own gates.

The hook layers of one edit are changes of rank 1, as MEMIT's; what is gated is its own rows alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from trainables.assemblies.spread_vectors import VectorRun
from trainables.assemblies.vectors_apart import VectorsApart
from trainables.backbones.hidden_states.covariance import states_above, watched_keys
from trainables.backbones.weights_apart import RankOnes
from trainables.errors import EditDiverged
from trainables.interfaces import Backbone
from trainables.methods.comeba_hk.hooks import HookLayer, gated, largest_z


class HooksApart:
    """Edits side by side.

    Attributes:
        run: Their vectors.
        thresholds: Alpha of each edit, by layer; none before `spread`.
    """

    def __init__(self, run: VectorRun) -> None:
        """No hook layer is found yet."""
        self.run = run
        self.thresholds: dict[int, list[float]] = {}
        self._vectors = VectorsApart(run)

    @torch.no_grad()
    def spread(
        self,
        backbone: Backbone,
        layers: Sequence[int],
        directions: Callable[[int, Tensor], Tensor],
        threshold: float,
    ) -> None:
        """Find the hook layers of each edit, the lowest first, and the thresholds it leaves.

        Args:
            backbone: Pristine, and left so.
            layers: In ascending order.
            directions: As of `VectorsApart.spread`.
            threshold: Alpha of a layer that is written first.
        """
        mask = self.run.rows.prompts().prompt_mask
        gated = partial(_gated_apart, prompt_mask=mask, threshold=threshold)
        self._vectors.spread(backbone, layers, directions, gated)
        self._lower(backbone, threshold)

    def hooks(self, number: int, dtype: torch.dtype) -> dict[int, HookLayer]:
        """The hook layers of one edit, by layer.

        Raises:
            EditDiverged: If one is not finite.
        """
        found = {}
        for layer, changes in self._vectors.changes.items():
            change = changes.of(number)
            if not bool(torch.isfinite(change).all()):
                raise EditDiverged(f"the update of layer {layer} is not finite")
            key = self._vectors.keys[layer][number]
            threshold = self.thresholds[layer][number]
            found[layer] = HookLayer(change.to(dtype), torch.outer(key, key), threshold)
        return found

    def _lower(self, backbone: Backbone, threshold: float) -> None:
        """Lower each alpha to the largest z of the edit's prompt in the bare backbone."""
        prompts = self.run.batch.tokens
        everyone = torch.arange(len(self.run.batch), device=prompts.input_ids.device)
        largest: dict[int, list[Tensor]] = {layer: [] for layer in self._vectors.changes}

        def note(layer: int, keys: Tensor) -> None:  # of one micro-batch
            edits = running(backbone, everyone)
            sizes = _added(self._vectors.changes[layer], edits, keys).norm(dim=-1)
            largest[layer].append(largest_z(sizes, running(backbone, prompts.prompt_mask)))

        with watched_keys(backbone, [*self._vectors.changes], note):
            states_above(backbone, max(self._vectors.changes), prompts)
        slack = math.sqrt(torch.finfo(backbone.dtype).eps)
        for layer, found in largest.items():
            self.thresholds[layer] = [
                min(threshold, of_prompt - slack) if of_prompt > -math.inf else threshold
                for of_prompt in torch.cat(found).tolist()
            ]


@contextmanager
def _gated_apart(
    backbone: Backbone,
    changes: Mapping[str, RankOnes],
    owners: Tensor,
    *,
    prompt_mask: Tensor,
    threshold: float,
) -> Iterator[None]:
    """As `changes_apart`, but of the tokens of a row those alone that pass."""

    def hook(change: RankOnes, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        added = _added(change, running(backbone, owners), inputs[0])
        return gated(output, added, running(backbone, prompt_mask), threshold)

    with ExitStack() as stack:
        for path, change in changes.items():
            module = backbone.model.get_submodule(path)
            stack.callback(module.register_forward_hook(partial(hook, change)).remove)
        yield


def running(backbone: Backbone, rows: Tensor) -> Tensor:
    """Those of `rows` (B, ...) that run now."""
    now = backbone.micro_batch.running
    return rows if now is None else rows[now]


def _added(change: RankOnes, edits: Tensor, keys: Tensor) -> Tensor:
    """What the change of each row's edit (B,) adds at its keys (B, T, F), (B, T, D)."""
    wide = torch.promote_types(keys.dtype, torch.float32)
    left, right = change.outputs[edits].to(wide), change.inputs[edits].to(wide)
    return (keys.to(wide) @ right[..., None]) * left[:, None]
