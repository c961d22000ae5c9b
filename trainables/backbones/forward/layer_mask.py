"""The attention mask that a decoder makes for its layers, made once instead of in every pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainables.interfaces import PromptBatch


class LayerMasks:
    """Masks for parts of a decoder, of the batch that ran last.

    A training loop comes with the same batch in every step.
    """

    def __init__(self, model: nn.Module) -> None:
        """Name the model that the parts are of."""
        self._model = model
        self._batch: Tensor | None = None
        self._made: dict[int, Tensor] = {}

    def of(self, part: nn.Module, prompts: PromptBatch, states: Tensor) -> Tensor:
        """The mask that `part` takes with states (B, T, D).

        It is (B, 1, T, T) as the layers get it, where they all get the same. Where the decoder
        needs the plain mask, as for ALiBi or where nothing is padded, it is that, (B, T).
        """
        if self._batch is not prompts.attention_mask:
            self._batch, self._made = prompts.attention_mask, {}
        if id(part) not in self._made:
            host = prompts.on_host
            made = mask_of_layers(
                self._model, part, host.attention_mask, host.position_ids, states.dtype
            )
            self._made[id(part)] = (
                prompts.attention_mask
                if made is None
                else made.to(states.device, non_blocking=True)
            )
        return self._made[id(part)]


def mask_of_layers(
    model: nn.Module, part: nn.Module, real: Tensor, positions: Tensor, dtype: torch.dtype
) -> Tensor | None:
    """The mask (B, 1, T, T) that the layers of `part` get; None where the plain one is needed.

    The decoder makes it in every pass, for which the host waits; one that is made already it takes
    as it is.

    Args:
        model: What `part` is of.
        part: See `decoder_part`.
        real: (B, T) int64, 1 on tokens, on the host.
        positions: Index of each token within its row, (B, T), on the host.
        dtype: Of the hidden states.
    """
    from transformers.masking_utils import create_masks_for_generate

    if hasattr(model, "create_masks_for_generate"):  # a family with a need of its own
        return None
    config: Any = part.config
    states = torch.empty(*real.shape, 0, dtype=dtype)  # its form is asked for
    made: Any = create_masks_for_generate(config, states, real, None, positions)
    if isinstance(made, dict):  # by kind of layer
        made = next(iter(made.values())) if len(made) == 1 else None
    is_whole = isinstance(made, Tensor) and made.ndim == 4 and len(made) == len(states)
    return made if is_whole else None
