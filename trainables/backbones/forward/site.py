"""A module whose output reaches the residual stream, and the layers above it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.backbones.forward.layer_mask import LayerMasks
from trainables.backbones.forward.parts import decoder_part, run_part
from trainables.backbones.forward.passage import Rows
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import PerToken, Split
from trainables.backbones.forward.tail import Tail
from trainables.backbones.surgery import replace_module
from trainables.interfaces import Backbone, PromptBatch


class Site:
    """A module of one layer whose output is added to the residual stream: an FFN, its down part.

    What a bypass adds there can be added to the layer's output instead, so a training loop runs
    neither the layer's attention nor its frozen FFN again. In floating point the sum differs from
    that of a forward pass by rounding.

    Where a family puts a norm between its FFN and the stream that does not hold: there the module's
    own output is what things are added to, and the layer is run again with the sum in its place.
    """

    def __init__(self, backbone: Backbone, layer: int, path: str, cache: PrefixCache) -> None:
        """Name the module by its dotted path; what stands there may be replaced later."""
        self._model, self._path = backbone.model, path
        self._is_normed = backbone.family.norm_after_ffn is not None
        self._split = Split(backbone, layer, cache)
        self._layer = decoder_part(backbone, layer, layer + 1, has_norm=False)
        self._above = Split(backbone, layer + 1, cache, has_batch_state=False, packs=True)
        self._masks = LayerMasks(backbone.model)

    @torch.no_grad()
    def frozen(self, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        """Input of the module as it now is, (B, T, ...), and what `logits` goes on from, (B, T, D).

        The second is the output of its layer; with a norm behind the FFN, of the module itself.
        Both are of no meaning on padding.
        """
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen.extend((inputs[0], output))

        hook = self._model.get_submodule(self._path).register_forward_hook(keep)
        try:
            output = self._run_layer(prompts)
        finally:
            hook.remove()
        inputs, own = (tensor.to(output.device) for tensor in seen)
        return inputs, own if self._is_normed else output

    def per_token(
        self,
        function: PerToken,
        prompts: PromptBatch,
        output: Tensor,
        *held: Tensor,
        tail: Tail | None = None,
    ) -> Tensor:
        """As `Split.per_token`, from what `frozen` gave and more: `output` (B, T, D).

        With a norm behind the FFN whatever stands at the path is passed over.
        """
        output = self._leaving_layer(prompts, output)
        return self._above.per_token(function, prompts, *held, hidden=output, tail=tail)

    def passage(
        self, function: PerToken, prompts: PromptBatch, output: Tensor, *held: Tensor
    ) -> Rows:
        """What `per_token` lets pass the layers above."""
        output = self._leaving_layer(prompts, output)
        return Rows(self._above, function, prompts, held, output)

    def tail(self, prompts: PromptBatch, output: Tensor, starts: Tensor) -> Tail | None:
        """As `Split.tail`, from the `output` that `frozen` gave.

        None also with a norm behind the FFN, where `output` is not what enters the layers above.
        """
        return None if self._is_normed else self._above.tail(prompts, output, starts)

    def _leaving_layer(self, prompts: PromptBatch, output: Tensor) -> Tensor:
        """What leaves the layer, by what `frozen` gave and more."""
        if not self._is_normed:
            return output
        before = replace_module(self._model, self._path, _Given(output))
        try:
            return self._run_layer(prompts)
        finally:
            replace_module(self._model, self._path, before)

    def _run_layer(self, prompts: PromptBatch) -> Tensor:
        hidden = self._split.hidden(prompts)
        mask = self._masks.of(self._layer, prompts, hidden)
        return run_part(self._layer, hidden, mask, prompts.position_ids)


class _Given(nn.Module):
    """Takes the place of a module whose output (B, T, D) is known."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self._output = output

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        return self._output.to(x.device)
