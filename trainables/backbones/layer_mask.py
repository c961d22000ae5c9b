"""The attention mask that a decoder makes for its layers, made once instead of in every pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def layer_mask(
    model: nn.Module, part: nn.Module, states: Tensor, mask: Tensor, positions: Tensor
) -> Tensor:
    """The attention mask as the layers of `part` get it, (B, 1, T, T), where they all get the same.

    The decoder makes it in every pass, for which the host waits; one that is made already it takes
    as it is. Where it needs the plain mask (B, T), as for ALiBi or where nothing is padded, that.
    """
    from transformers.masking_utils import create_masks_for_generate

    if hasattr(model, "create_masks_for_generate"):  # a family with a need of its own
        return mask
    config: Any = part.config
    made: Any = create_masks_for_generate(config, states, mask, None, positions)
    if isinstance(made, dict):  # by kind of layer
        made = next(iter(made.values())) if len(made) == 1 else None
    is_whole = isinstance(made, Tensor) and made.ndim == 4
    return made if is_whole else mask
