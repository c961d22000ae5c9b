"""One bank of experts beside the FFN of one layer, trained batch after batch.

For methods that make all their experts with the first batch of edits and go on training them in
every later one. The methods compute the gates themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainables.backbones.forward.passage import Rows
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import PerToken, Split
from trainables.backbones.layers import check_edit_layer
from trainables.backbones.surgery import get_module, replace_module
from trainables.interfaces import Backbone, DecodeState, PromptBatch, State
from trainables.moe.adaptor import Adaptor, Route
from trainables.moe.experts import Bank, FrozenFfn


class Bypass:
    """An adaptor with a single bank, from its first batch on; before that, the plain backbone."""

    def __init__(
        self,
        backbone: Backbone,
        layer: int,
        make_bank: Callable[[int, FrozenFfn], Bank],
        cache: PrefixCache,
        *,
        num_experts: int,
        bypass_weight: float,
    ) -> None:
        """Keep the settings; the backbone is not touched before `attach`.

        Args:
            backbone: Stays frozen.
            layer: Decoder layer whose FFN gets the bypass.
            make_bank: Builds so many experts beside a FFN.
            cache: Of prefix states.
            num_experts: E.
            bypass_weight: Scales what the experts add.

        Raises:
            ConfigError: If the backbone has no such layer.
        """
        check_edit_layer(layer, backbone)
        self.layer = layer
        self._model = backbone.model
        self._path = backbone.ffn_path(layer)
        self._frozen_ffn = FrozenFfn.of_layer(backbone, layer)
        self._make_bank = make_bank
        self._num_experts = num_experts
        self._weight = bypass_weight
        self._split = Split(backbone, layer, cache)
        self._site = Site(backbone, layer, self._path, cache)
        self._adaptor: Adaptor | None = None

    @property
    def is_attached(self) -> bool:
        """True from the first batch of edits until `remove`."""
        return self._adaptor is not None

    def attach(self) -> None:
        """Put new experts beside the FFN."""
        self._wrap().add_bank(self._bank(self._num_experts))

    def thaw(self) -> dict[str, nn.Parameter]:
        """Train all experts; returns their parameters by name."""
        self._present.thaw_banks()
        return dict(self._present.banks[0].named_parameters())

    def freeze(self) -> None:
        """Train no expert, until `thaw`."""
        self._present.freeze_banks()

    @torch.no_grad()
    def frozen(self, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        """The FFN's input x and the layer's output without any expert, (B, T, D) both."""
        with self._present.routed(self._present.closed(len(prompts.input_ids))):
            return self._site.frozen(prompts)

    def per_token(
        self,
        function: PerToken,
        prompts: PromptBatch,
        frozen: tuple[Tensor, Tensor],
        gates: Tensor,
        *held: Tensor,
    ) -> Tensor:
        """As `Split.per_token`, with `gates` open, from what `frozen` returned."""
        return self.passage(function, prompts, frozen, gates, *held).alone()

    def passage(
        self,
        function: PerToken,
        prompts: PromptBatch,
        frozen: tuple[Tensor, Tensor],
        gates: Tensor,
        *held: Tensor,
    ) -> Rows:
        """What `per_token` lets pass the layers above."""
        x, output = frozen
        added = self._present.added(x, gates).to(output.dtype)
        return self._site.passage(function, prompts, output + added, *held)

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None, route: Route | None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) along `route`, which is not read before the first batch."""
        if self._adaptor is None or route is None:
            return self._split.logits(prompts, state)
        with self._adaptor.routed(route):
            return self._split.logits(prompts, state)

    @contextmanager
    def detached(self) -> Iterator[None]:
        """Within the block the plain FFN is back in its place, as if nothing had been edited."""
        if self._adaptor is None:
            yield
            return
        replace_module(self._model, self._path, self._adaptor.frozen)
        try:
            yield
        finally:
            replace_module(self._model, self._path, self._adaptor)

    def state(self) -> State:
        """The experts; empty before the first batch."""
        return State() if self._adaptor is None else self._adaptor.state()

    def load(self, state: State) -> None:
        """Continue from `state`, with all experts frozen."""
        self.remove()
        if state.tensors:
            self._wrap().load(state, self._bank)
            self.freeze()

    def remove(self) -> None:
        """Put the FFN back in its place and forget the experts."""
        if self._adaptor is not None:
            replace_module(self._model, self._path, self._adaptor.frozen)
        self._adaptor = None

    @property
    def _present(self) -> Adaptor:
        assert self._adaptor is not None
        return self._adaptor

    def _wrap(self) -> Adaptor:
        self._adaptor = Adaptor(get_module(self._model, self._path), self._weight)
        replace_module(self._model, self._path, self._adaptor)
        return self._adaptor

    def _bank(self, num_experts: int) -> Bank:
        return self._make_bank(num_experts, self._frozen_ffn)
