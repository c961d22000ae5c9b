"""What MEMOIR takes off the pattern of a prompt: the mean over unrelated ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.backbones.hidden_states.down_site import DownSite
from trainables.backbones.hidden_states.token_statistics import SINK_RATIO
from trainables.interfaces import State
from trainables.methods.memoir.masks import pooled_mean
from trainables.moe.side_training import read_prompts

_MOST_UNRELATED = 100


def stored_centre(
    site: DownSite, layer: int, artefacts: Artefacts, prompts: Sequence[str]
) -> Tensor:
    """Mean over the first 100 prompts of the mean of a_t over each one's tokens, (F,).

    It is made once, for all trials of a cache; 0 without any prompt.
    """
    backbone, texts = site.backbone, prompts[:_MOST_UNRELATED]

    def build() -> State:
        read = read_prompts(site, backbone.tokenizer, texts, backbone.device)
        if read is None:
            return State({"centre": torch.zeros(backbone.ffn_size)})
        return State({"centre": pooled_mean(read.inputs, read.counted).mean(0)})

    inputs = backbone.identity | {
        "layer": layer,
        "prompts": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        "sink_ratio": SINK_RATIO,
    }
    stored = artefacts.get("input_centre", inputs, build)
    return stored.tensors["centre"].to(backbone.device)
