"""The FFN output projection of one layer: what enters it, what leaves it, and its natural scale.

Nothing is put into the backbone: a change of the projection's output is a hook for the length of
one call, so there is nothing to restore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.backbones.forward.passage import Rows
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import PerToken, Split
from trainables.backbones.hidden_states.token_statistics import ordinary_tokens, token_mean
from trainables.backbones.surgery import get_module
from trainables.interfaces import Backbone, DecodeState, PromptBatch, State
from trainables.prompts import collate, pad_id, tokenise

_PROMPTS_PER_FORWARD = 32

# (its input, its output, what enters the layer) -> what to return instead
Change = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class DownRead:
    """What the frozen layer makes of some prompts; of no meaning on padding.

    Attributes:
        tokens: The rows.
        inputs: a_t, what enters the projection, (B, T, F).
        outputs: What leaves it, (B, T, D).
        layer: What leaves the layer, (B, T, D); where a norm stands behind the FFN, as `outputs`.
        counted: Prompt tokens that count in a mean, (B, T) bool; see token_statistics.py.
    """

    tokens: PromptBatch
    inputs: Tensor
    outputs: Tensor
    layer: Tensor
    counted: Tensor


@dataclass(frozen=True)
class DownScale:
    """Natural scale of one projection.

    Attributes:
        residual_norm: r, median over prompts of the token-mean norm of the residual stream that
            enters the FFN, before its norm; attention sinks left out. Where a norm stands behind
            the FFN, the norm of the FFN's own output, beside which a change of it counts.
        input_power: A, median over prompts of the token-mean |a_t|^2; attention sinks left out.
        centre: Mean of a_t at the last prompt token, (F,).
        spread: Root mean square of what is left of it after centring, over prompts and entries.
    """

    residual_norm: float
    input_power: float
    centre: Tensor
    spread: float

    def state(self) -> State:
        """The scale as tensors and JSON."""
        numbers = {name: vars(self)[name] for name in ("residual_norm", "input_power", "spread")}
        return State({"centre": self.centre}, numbers)

    @classmethod
    def from_state(cls, state: State, device: torch.device) -> DownScale:
        """The scale that `state` stored."""
        numbers = {name: float(value) for name, value in state.values.items()}  # type: ignore[arg-type]
        return cls(centre=state.tensors["centre"].to(device).clone(), **numbers)


class DownSite:
    """One layer's FFN output projection, with the frozen layers below and those above."""

    def __init__(self, backbone: Backbone, layer: int, cache: PrefixCache) -> None:
        path = backbone.down_path(layer)
        self.backbone = backbone
        self.split = Split(backbone, layer, cache)
        self._site = Site(backbone, layer, path, cache)
        self._down = get_module(backbone.model, path)
        self._layer = get_module(backbone.model, backbone.layer_path(layer))

    @torch.no_grad()
    def read(self, prompts: PromptBatch) -> DownRead:
        """The frozen layer's part in some prompts; states below come from the cache."""
        with self._watched() as entering:
            inputs, layer = self._site.frozen(prompts)
        counted = ordinary_tokens(prompts.prompt_mask, entering[0].to(inputs.device), inputs)
        return DownRead(prompts, inputs, self._down(inputs), layer, counted)

    def per_token(
        self, function: PerToken, prompts: PromptBatch, output: Tensor, *held: Tensor
    ) -> Tensor:
        """As `Site.per_token`, from `DownRead.layer` and more."""
        return self.passage(function, prompts, output, *held).alone()

    def passage(
        self, function: PerToken, prompts: PromptBatch, output: Tensor, *held: Tensor
    ) -> Rows:
        """What `per_token` lets pass the layers above."""
        return self._site.passage(function, prompts, output, *held)

    def answer(
        self, prompts: PromptBatch, state: DecodeState | None, change: Change
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) with the projection's output replaced by what `change` returns."""
        with self._changed(change):
            return self.split.logits(prompts, state)

    @torch.no_grad()
    def scale(self, texts: Sequence[str]) -> DownScale:
        """The projection's natural scale over some prompts; at least one."""
        tokenizer, device = self.backbone.tokenizer, self.backbone.device
        rows = [tokenise(tokenizer, text) for text in texts]
        norms, powers, ends = [], [], []
        for start in range(0, len(rows), _PROMPTS_PER_FORWARD):
            some = rows[start : start + _PROMPTS_PER_FORWARD]
            read = self.read(collate(some, pad_id=pad_id(tokenizer), device=device))
            # The residual stream before the FFN is what leaves the layer without the FFN's share.
            is_normed = self.backbone.family.norm_after_ffn is not None
            residual = read.outputs if is_normed else read.layer - read.outputs
            norms.append(token_mean(residual.float().norm(dim=-1), read.counted))
            powers.append(token_mean(read.inputs.float().square().sum(-1), read.counted))
            last = torch.arange(len(some), device=device), read.tokens.prompt_ends
            ends.append(read.inputs[last].float())
        last_inputs = torch.cat(ends)
        centre = last_inputs.mean(0)
        spread = float((last_inputs - centre).square().mean().sqrt())
        if not spread > 0:  # a single prompt: nothing to tell apart yet
            spread = float(last_inputs.square().mean().sqrt()) or 1.0
        return DownScale(
            float(torch.cat(norms).median()), float(torch.cat(powers).median()), centre, spread
        )

    @contextmanager
    def _changed(self, change: Change) -> Iterator[None]:
        with self._watched() as entering:

            def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
                return change(inputs[0], output, entering[-1].to(output.device))

            handle = self._down.register_forward_hook(hook)
            try:
                yield
            finally:
                handle.remove()

    @contextmanager
    def _watched(self) -> Iterator[list[Tensor]]:
        """Within the block the list gets what enters the layer, (B, T, D), at every pass."""
        entering: list[Tensor] = []

        def note(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            entering.append((inputs[0] if inputs else named["hidden_states"]).detach())

        handle = self._layer.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield entering
        finally:
            handle.remove()
