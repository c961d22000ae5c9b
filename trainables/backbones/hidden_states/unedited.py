"""Greedy answers, gradient factors and final hidden states of the unedited backbone.

Source: MEMoE v2, "Enhancing Model Editing with Mixture of Experts Adaptors": prediction and token
probabilities of Eq. 9, the gradient that Eq. 9 takes, and the last hidden state e(x) of Eq. 13.
The caller must have put the backbone's own modules in place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.interfaces import DecodeState, PromptBatch
from trainables.optimise import token_losses
from trainables.prompts import Row, by_length, collate, pad_id, row_index

ROWS_PER_FORWARD = 64


@dataclass(frozen=True)
class GreedyAnswer:
    """A greedy continuation as text, and the mean probability of its tokens in [0, 1]."""

    text: str
    probability: float


@torch.no_grad()
def greedy_answers(
    split: Split, prompts: Sequence[Row], max_tokens: Sequence[int]
) -> list[GreedyAnswer]:
    """The backbone's own answers, each up to the end token or `max_tokens` of it, at least one.

    The end token's probability counts where it comes; it adds nothing to the text.
    """
    tokenizer = split.backbone.tokenizer
    found: dict[int, GreedyAnswer] = {}
    for members in by_length(prompts, split.backbone.micro_batch.at_most(ROWS_PER_FORWARD)):
        grown = _grown(split, [prompts[m] for m in members], [max_tokens[m] for m in members])
        for member, steps in zip(members, grown, strict=True):
            ids = [token for token, _ in steps if token != tokenizer.eos_token_id]
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            chances = [chance for _, chance in steps]
            found[member] = GreedyAnswer(text, sum(chances) / len(chances))
    return [found[index] for index in range(len(prompts))]


def _grown(
    split: Split, prompts: Sequence[Row], max_tokens: Sequence[int]
) -> list[list[tuple[int, float]]]:
    """Tokens with their probabilities, the end token included where it comes."""
    backbone = split.backbone
    end = backbone.tokenizer.eos_token_id
    pad = pad_id(backbone.tokenizer)
    batch = collate(prompts, pad_id=pad, scores_last=True, device=backbone.device)
    grown: list[list[tuple[int, float]]] = [[] for _ in prompts]
    is_open = [True] * len(prompts)
    state = DecodeState()
    while any(is_open):
        logits, state = split.logits(batch, state)
        chances, tokens = logits.float().softmax(-1).max(-1)
        for row, step in enumerate(zip(tokens.tolist(), chances.tolist(), strict=True)):
            if is_open[row]:
                grown[row].append(step)
                is_open[row] = step[0] != end and len(grown[row]) < max_tokens[row]
        ones = torch.ones_like(tokens)[:, None]
        batch = PromptBatch(tokens[:, None], ones, ones[:, 0], ones.bool())
    return grown


def gradient_factors(
    site: Site, tokens: PromptBatch, labels: Tensor, rows_at_a_time: int = ROWS_PER_FORWARD
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Factors of each row's gradient, the loss being its labels' mean negative log-likelihood.

    They come in parts of some rows, with S real tokens: the gradient of each row's loss at the
    layer's output, (S, D), what enters the layer, (S, F), both float32 or wider, and the row of
    each token, (S,).

    What leaves the layer is added to the residual stream, so the gradient there is that at the
    output of the decoder layer: one forward and one backward pass serve all rows.

    Args:
        site: At the FFN's output projection.
        tokens: Token rows, scored where a label is predicted.
        labels: (M,), in row-major order of the scored positions.
        rows_at_a_time: Rows of one part.
    """
    ends = [0, *accumulate(tokens.scored_counts)]
    for part in torch.arange(len(tokens.input_ids)).split(rows_at_a_time):
        batch, first = tokens.rows(part), int(part[0])
        inputs, output = site.frozen(batch)
        output = output.detach().requires_grad_(True)
        with torch.enable_grad():
            wanted = labels[ends[first] : ends[first + len(part)]]
            own = site.per_token(token_losses, batch, output, wanted)
            counts = batch.scored.sum(1)
            loss = (own / counts[row_index(batch)]).sum()
        (gradient,) = torch.autograd.grad(loss, output)
        real = batch.real_at
        wide = torch.promote_types(gradient.dtype, torch.float32)
        yield gradient[real].to(wide), inputs[real].to(wide), real[0] + first


class FinalStates:
    """Final hidden states of prompts, after the last norm, computed once per prompt and process.

    They are kept in the prefix cache. The state of a prompt's token does not depend on what
    follows, so rows with a target behind the prompt serve as well.
    """

    def __init__(self, split: Split, cache: PrefixCache, *, has_all_tokens: bool) -> None:
        """Choose what is read.

        Args:
            split: The backbone from the edited layer up.
            cache: Where the states are kept.
            has_all_tokens: Read every prompt token's state, not only the last one's.
        """
        self._split = split
        self._cache = cache
        self._has_all_tokens = has_all_tokens

    @torch.no_grad()
    def read(self, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        """States (B, L, D) float32 or wider, padded in front, and where there are any, (B, L)."""
        host = prompts.on_host
        keys = [
            self._key(ids[mask]) for ids, mask in zip(host.input_ids, host.prompt_mask, strict=True)
        ]
        found = [self._cache.get(key) for key in keys]
        missing = [row for row, states in enumerate(found) if states is None]
        if missing:
            for row, states in zip(missing, self._computed(prompts, missing), strict=True):
                found[row] = states
                self._cache.put(keys[row], states)
        return _padded([states for states in found if states is not None])

    def _computed(self, prompts: PromptBatch, rows: Sequence[int]) -> list[Tensor]:
        part = prompts.on_host.rows(torch.tensor(rows))
        wanted = part.prompt_mask
        if not self._has_all_tokens:
            columns = torch.arange(wanted.shape[1], device=wanted.device)
            wanted = columns == part.prompt_ends[:, None]
        asked = replace(part, scored=wanted).to(prompts.input_ids.device)
        with (
            self._split.backbone.micro_batch.undivided()
        ):  # other ranks may have them in their caches
            final = self._split.final(asked)
        final = final.to(torch.promote_types(final.dtype, torch.float32))
        return [states.clone() for states in final.split(asked.scored_counts)]

    def _key(self, ids: Tensor) -> tuple[str, int, bytes]:
        backbone = self._split.backbone
        digest = hashlib.blake2b(ids.numpy().tobytes(), digest_size=16).digest()
        kind = "all" if self._has_all_tokens else "last"
        # One above the layers that a prefix can end at.
        return f"{backbone.memory_key}/{kind}", backbone.num_layers + 1, digest


def _padded(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    longest = max(len(own) for own in states)
    padded = states[0].new_zeros(len(states), longest, states[0].shape[1])
    mask = torch.zeros(padded.shape[:2], dtype=torch.bool, device=padded.device)
    for row, own in enumerate(states):
        padded[row, longest - len(own) :] = own
        mask[row, longest - len(own) :] = True
    return padded, mask
