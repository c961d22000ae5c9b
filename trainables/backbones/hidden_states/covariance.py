"""Second moments of the inputs of the FFN output projections, and hooks that read those inputs.

The uncentred covariance C = E[k k^T] says which directions ordinary text uses; MEMIT (Meng et al.,
arXiv:2210.07229) and its relatives keep their updates out of them. It is also the place where the
keys k themselves are read.

Attention sinks (token_statistics.py) stay in C, unlike in a mean: it weighs directions, and the
longer a sink's key is, the more an update along it would do to every prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.errors import DataError, EditDiverged
from trainables.interfaces import Backbone, PromptBatch
from trainables.prompts import Row, collate, pad_id, tokenise

_RIDGE = 1e-8
_TRAINING_TEXT = "training_text.txt"
_MAX_PASSAGE_TOKENS = 512
_TOKENS_PER_FORWARD = 4096


@contextmanager
def watched_keys(
    backbone: Backbone, layers: Sequence[int], note: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Within the block, `note(layer, keys)` gets what enters each layer's output projection.

    Keys are (B, T, F) in the backbone's dtype; nothing is changed, and no hook stays behind.
    """

    def hook(layer: int, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        note(layer, inputs[0])

    handles = [
        backbone.model.get_submodule(backbone.down_path(layer)).register_forward_pre_hook(
            partial(hook, layer)
        )
        for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def states_above(backbone: Backbone, layer: int, prompts: PromptBatch) -> Tensor:
    """Output of decoder layer `layer` at the backbone's present weights, (B, T, D).

    Unlike a shared prefix nothing is cached, so that weights below may have been edited. Rows
    beyond the backbone's limit run as several micro-batches, in order: whoever watches the layers
    meanwhile sees one after the other.

    Args:
        backbone: Not changed.
        layer: Below the last one.
        prompts: Token rows.
    """
    return Split(backbone, layer + 1, PrefixCache(0.0)).hidden(prompts)


def in_micro_batches(backbone: Backbone, batches: Iterable[PromptBatch]) -> Iterator[PromptBatch]:
    """The rows of `batches` in the same order, in batches as small as the backbone's limit asks."""
    for prompts in batches:
        indices = torch.arange(len(prompts.input_ids), device=prompts.input_ids.device)
        for some in backbone.micro_batch.slices(len(indices)):
            yield prompts.rows(indices[some])


def second_moments(
    backbone: Backbone, layers: Sequence[int], batches: Iterable[PromptBatch]
) -> dict[int, Tensor]:
    """C = E[k k^T] of each layer, (F, F) float32, over all real tokens of `batches`.

    Products are taken in float32 and summed in float64.

    Raises:
        ValueError: If there is no token, or a result is not finite, symmetric and positive
            semi-definite.
    """
    size = (backbone.ffn_size, backbone.ffn_size)
    sums = {
        layer: torch.zeros(size, dtype=torch.float64, device=backbone.device) for layer in layers
    }
    num_tokens = 0
    for prompts in in_micro_batches(backbone, batches):
        real = prompts.attention_mask.bool()

        def add(layer: int, keys: Tensor, real: Tensor = real) -> None:
            rows = keys[real].float()
            sums[layer] += (rows.T @ rows).double()

        with torch.no_grad(), watched_keys(backbone, layers, add):
            states_above(backbone, max(layers), prompts)
        num_tokens += int(real.sum())
    if not num_tokens:
        raise ValueError("no token to take second moments of")
    moments = {layer: (total / num_tokens).float() for layer, total in sums.items()}
    for layer, moment in moments.items():
        check_second_moment(layer, moment)
    return moments


def check_second_moment(layer: int, moment: Tensor) -> None:
    """Refuse `moment` (F, F) if it cannot be a second moment.

    A matrix that has a Cholesky factor has positive eigenvalues alone, and that factor takes less
    than half the time of the eigenvalues, which are found only where there is none.

    Raises:
        ValueError: If it is not finite, not symmetric, or has a negative eigenvalue beyond
            float32 rounding (1e-5 of the largest).
    """
    if not bool(torch.isfinite(moment).all()):
        raise ValueError(f"second moment of layer {layer} is not finite")
    wide = moment.double()
    scale = float(wide.abs().amax())
    if float((wide - wide.T).abs().amax()) > 1e-5 * scale:
        raise ValueError(f"second moment of layer {layer} is not symmetric")
    # No entry of a second moment is larger than its largest eigenvalue.
    shifted = wide + 1e-5 * scale * torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    if int(torch.linalg.cholesky_ex(shifted).info) == 0:
        return
    eigenvalues = torch.linalg.eigvalsh(wide)
    if float(eigenvalues[0]) < -1e-5 * max(float(eigenvalues[-1]), 0.0):
        raise ValueError(
            f"second moment of layer {layer} has the eigenvalue {float(eigenvalues[0]):g}"
        )


def ridged(system: Tensor) -> Tensor:
    """`system` (F, F) plus 1e-8 of its mean diagonal, so that one of few tokens can be solved."""
    ridge = _RIDGE * system.diagonal().mean()
    return system + ridge * torch.eye(len(system), dtype=system.dtype, device=system.device)


def solved(system: Tensor, right: Tensor, l2_weight: float) -> Tensor:
    """X of (system + l2_weight I) X = right, (n, N) of `right`, by the Cholesky factor.

    Args:
        system: (n, n), symmetric and positive semi-definite; the second term is added in place.
        right: (n, N).
        l2_weight: Above 0.

    Raises:
        EditDiverged: If there is no such factor: an entry is not finite, or so large that
            `l2_weight` is lost beside it.
    """
    system.diagonal().add_(l2_weight)
    factor, info = torch.linalg.cholesky_ex(system)
    if int(info) != 0 or not bool(torch.isfinite(factor.diagonal()).all()):
        raise EditDiverged(
            "the closed form has no solution: squares of keys up to "
            f"{float(system.diagonal().amax()):g} beside method.l2_weight={l2_weight:g}"
        )
    solution: Tensor = torch.cholesky_solve(right, factor)
    return solution


def kept_passages(path: str | None, backbone: Backbone) -> tuple[str, list[str]] | None:
    """Where a text comes from ("file" or "checkpoint") and its passages; None if there is none.

    The lines of the file at `path`, else those of `training_text.txt` in the checkpoint's folder.

    Raises:
        DataError: If the file at `path` has no passage.
    """
    if path is not None:
        if found := different_passages(Path(path).read_text(encoding="utf-8").splitlines()):
            return "file", found
        raise DataError(
            f"method.covariance_text is {path!r}, which holds no text; allowed: a text file with "
            "one passage a line"
        )
    kept = None if backbone.folder is None else backbone.folder / _TRAINING_TEXT
    if kept is None or not kept.is_file():
        return None
    found = different_passages(kept.read_text(encoding="utf-8").splitlines())
    return ("checkpoint", found) if found else None


def different_passages(lines: Iterable[str]) -> list[str]:
    """`lines` without blanks and repetitions.

    Their order comes from their hashes, so that a cut takes no section of the source and does not
    depend on its order.
    """
    different = {line.strip() for line in lines} - {""}
    return sorted(different, key=lambda text: hashlib.sha256(text.encode()).digest())


def passage_batches(
    backbone: Backbone, texts: Sequence[str], num_tokens: int
) -> Iterator[PromptBatch]:
    """Batches of the first `texts`, at most `num_tokens` real tokens in all, longest rows first.

    Each text is cut to the backbone's context, or to 512 tokens.
    """
    positions = getattr(backbone.model.config, "max_position_embeddings", _MAX_PASSAGE_TOKENS)
    longest = min(_MAX_PASSAGE_TOKENS, int(positions))
    rows: list[Row] = []
    left = num_tokens
    for text in texts:
        if left <= 0:
            break
        ids = tokenise(backbone.tokenizer, text).ids[: min(longest, left)]
        rows.append(Row(ids, len(ids)))
        left -= len(ids)
    rows.sort(key=lambda row: -len(row.ids))
    while rows:
        size = max(1, _TOKENS_PER_FORWARD // len(rows[0].ids))
        yield collate(rows[:size], pad_id=pad_id(backbone.tokenizer), device=backbone.device)
        rows = rows[size:]
