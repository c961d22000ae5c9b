"""Routes each prompt by the hidden state that the unedited model gives it.

Source: MEMoE v2, "Enhancing Model Editing with Mixture of Experts Adaptors", Eq. 10 and 13-15: the
router reads e(x), the last hidden state of the prompt's last token. With a cache of such states a
prompt costs one pass of the unedited model, however often it is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.assemblies.bypass import Bypass
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.unedited import FinalStates
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, PromptBatch, State
from trainables.methods.memoe_v2.dual_attention import (
    DualAttentionRouter,
    Gate,
    Reading,
    instance_gates,
)

Read = tuple[Tensor, Tensor]  # states (B, L, D) and where there are any, (B, L)


@dataclass(frozen=True)
class RoutingSettings:
    """Shape of the router.

    Attributes:
        num_experts: E.
        top_k: Experts of a prompt.
        router: Reading of Eq. 14.
        router_chunks: Pieces of the hidden state, for `chunks`.
        projection_size: d_p of Eq. 13; None: a quarter of the model's width.
        gate: What scales an expert.
    """

    num_experts: int
    top_k: int
    router: Reading
    router_chunks: int
    projection_size: int | None
    gate: Gate


class UneditedRouting:
    """The router and the hidden states that it reads; no weights before `initialise`."""

    def __init__(
        self, settings: RoutingSettings, backbone: Backbone, bypass: Bypass, cache: PrefixCache
    ) -> None:
        """Prepare.

        Args:
            settings: Of the router.
            backbone: Read as it was before `bypass` stood in it.
            bypass: Taken out while the backbone is read.
            cache: Of the states.

        Raises:
            ConfigError: If the hidden state cannot be cut into so many pieces.
        """
        size, pieces = backbone.hidden_size, settings.router_chunks
        if settings.router == "chunks" and size % pieces:
            raise ConfigError(
                f"method.router_chunks is {pieces}; it must divide {size}, the backbone's width"
            )
        self._settings = settings
        self._bypass = bypass
        weight = backbone.embedding.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self._like = weight.new_empty(size, dtype=dtype)
        # The layers below the bypass are shared with whoever else runs the backbone from there.
        self._states = FinalStates(
            Split(backbone, bypass.layer, cache),
            cache,
            has_all_tokens=settings.router == "sequence",
        )
        self._router: DualAttentionRouter | None = None

    @property
    def has_weights(self) -> bool:
        """True once `initialise` or `load` has given the router weights."""
        return self._router is not None

    def initialise(self, generator: torch.Generator) -> None:
        """Give the router new random weights."""
        settings, size = self._settings, len(self._like)
        self._router = DualAttentionRouter(
            settings.num_experts,
            reading=settings.router,
            projection_size=settings.projection_size or max(1, size // 4),
            num_chunks=settings.router_chunks,
            like=self._like,
            generator=generator,
        )
        self.freeze()

    def forget(self) -> None:
        """Drop the weights."""
        self._router = None

    def read(self, prompts: PromptBatch) -> Read:
        """What the unedited model makes of the prompts."""
        with self._bypass.detached():
            return self._states.read(prompts)

    def scores(self, read: Read) -> Tensor:
        """Router logits (B, E); their softmax is r of Eq. 15."""
        scores: Tensor = self._present(*read)
        return scores

    def gates(self, scores: Tensor, labels: Tensor | None = None) -> Tensor:
        """Gates (B, E) of Eq. 10; `labels` (B,) force an expert where they are not -1."""
        return instance_gates(scores, self._settings.top_k, self._settings.gate, labels)

    def thaw(self) -> dict[str, nn.Parameter]:
        """Train the router; returns its parameters by name."""
        self._present.requires_grad_(True)
        return {f"router.{name}": value for name, value in self._present.named_parameters()}

    def freeze(self) -> None:
        """Stop training the router."""
        self._present.requires_grad_(False)
        self._present.zero_grad(set_to_none=True)

    def state(self) -> State:
        """The weights; empty before `initialise`."""
        if self._router is None:
            return State()
        return State(dict(self._router.state_dict()))

    def load(self, state: State) -> None:
        """Continue from `state`, frozen."""
        self.forget()
        if state.tensors:
            self.initialise(torch.Generator())  # what it draws is overwritten
            self._present.load_state_dict(state.tensors)

    @property
    def _present(self) -> DualAttentionRouter:
        assert self._router is not None
        return self._router
