"""Stretches of a family's own decoder, run on hidden states; the modules are shared, not copied."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainables.interfaces import Backbone


def run_part(
    part: nn.Module, states: Tensor, mask: Tensor, positions: Tensor, cache: Any = None
) -> Tensor:
    """What leaves a part of the decoder, (B, T, D), on the device of what entered it.

    A `cache` (`transformers.Cache`) gives the keys and values of tokens before, and gets the new.
    """
    left: Tensor = part(
        inputs_embeds=states,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    return left.to(states.device)


def head(backbone: Backbone, final: Tensor) -> Tensor:
    """Vocabulary logits (..., V) of final hidden states (..., D)."""
    output = backbone.model.get_output_embeddings()  # type: ignore[operator]
    logits: Tensor = output(final)
    key = backbone.family.logit_cap
    cap = None if key is None else getattr(backbone.model.config, key, None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


class _Nothing(nn.Module):
    """Takes the place of a module that only acts before layer 0; adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class _NoPosition(nn.Module):
    """Takes the place of learned positions above layer 0, where they were added already."""

    def forward(self, position_ids: Tensor) -> Tensor:
        return torch.zeros((), device=position_ids.device)


def decoder_part(backbone: Backbone, first: int, stop: int, *, has_norm: bool) -> nn.Module:
    """The family's own decoder, cut to layers [first, stop) and sharing their modules.

    Using the family's forward keeps its masks and positions; nothing here repeats them. What
    only acts before layer 0 is left out above it.
    """
    decoder = backbone.model.get_submodule(backbone.family.decoder)
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    layers_name = backbone.family.layers.removeprefix(f"{backbone.family.decoder}.")
    part._modules[layers_name] = _LayerSlice(decoder.get_submodule(layers_name), first, stop)
    config: Any = copy.copy(decoder.config)
    if getattr(config, "layer_types", None) is not None:
        # The decoder asks for the kind of the n-th layer that it runs: window or full attention.
        config.layer_types = list(config.layer_types[first:stop])
        part.config = config
    if not has_norm:
        norm_name = backbone.family.final_norm.removeprefix(f"{backbone.family.decoder}.")
        part._modules[norm_name] = _Nothing()
    if first > 0:
        for name in backbone.family.input_only:
            is_position = isinstance(decoder.get_submodule(name), nn.Embedding)
            part._modules[name] = _NoPosition() if is_position else _Nothing()
    return part


class _LayerSlice(nn.Module):
    """A live view of some layers: a layer replaced in the model is replaced here too."""

    _layers: nn.ModuleList

    def __init__(self, layers: nn.Module, first: int, stop: int) -> None:
        super().__init__()
        # Hidden from nn.Module's registry: the view owns no parameters of its own.
        object.__setattr__(self, "_layers", layers)
        self._range = range(first, stop)

    def __len__(self) -> int:
        return len(self._range)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter([self._layers[index] for index in self._range])

    def __getitem__(self, index: int | slice) -> nn.Module | list[nn.Module]:
        if isinstance(index, slice):
            # The families cut to config.num_hidden_layers, which counts the whole model.
            return list(self)[index]
        return self._layers[self._range[index]]
