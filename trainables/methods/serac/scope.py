"""The scope classifier: whether a prompt is about an edit.

Source: Mitchell et al., "Memory-Based Model Editing at Scale" (arXiv:2206.06520), the classifier
by embeddings: texts are embedded one by one, and their distance gives the probability.

    p(edit, x) = exp(-scale |f(edit) - f(x)|^2),    f(text) = W e(text)

e is a text encoder that is not trained (of the paper a distilbert, which is), centred and of
length 1; W and the scale are trained, W from the identity. An edit is embedded by its prompt alone,
where the paper has its target, too: a prompt holds no target to be compared with, and on the
made-up world a quarter of the edited prompts were then out of their own edit's scope.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trainables.assemblies.edit_texts import squared_distances
from trainables.interfaces import TrainingRecord

_LEAST = 1e-6  # squared distance: log(1 - exp(-0)) has no value


class ScopeClassifier(nn.Module):
    """W and the scale."""

    def __init__(self, size: int) -> None:
        """For embeddings of `size` numbers; before training distances are those of embeddings."""
        super().__init__()
        self.projection = nn.Parameter(torch.eye(size))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, embeddings: Tensor) -> Tensor:
        """F times the root of the scale: of embeddings (N, D), so that p = exp(-distance^2)."""
        return embeddings @ self.projection.T * (self.log_scale / 2).exp()


def similarity(distance: Tensor) -> Tensor:
    """P of squared distances of what the classifier puts out."""
    return (-distance).exp()


def texts_of(training: Sequence[TrainingRecord]) -> list[str]:
    """All texts that the classifier learns from, each once."""
    found: dict[str, None] = {}
    for record in training:
        asked = (question.prompt for question in record.unrelated)
        found.update(dict.fromkeys((record.edit.prompt, *record.rephrases, *asked)))
    return list(found)


def scope_loss(
    classifier: ScopeClassifier,
    embedded: Mapping[str, Tensor],
    records: Sequence[TrainingRecord],
    generator: torch.Generator,
) -> Tensor:
    """Binary cross-entropy, balanced between prompts in scope and out of it; scalar.

    In scope is each record's prompt or one of its rephrases, drawn alike. Out of it are one of its
    unrelated questions, and that same prompt for the other records' edits: of these and of all
    edits of `records` the nearest counts, as it would in a memory.

    Args:
        classifier: In training.
        embedded: Embedding (D,) of each of `texts_of(records)`.
        records: B of them.
        generator: Draws prompts and questions.
    """
    prompts = [record.edit.prompt for record in records]
    asked = [_drawn((r.edit.prompt, *r.rephrases), generator) for r in records]
    unrelated = [
        _drawn([question.prompt for question in record.unrelated], generator)
        for record in records
        if record.unrelated
    ]
    keys = classifier(torch.stack([embedded[text] for text in prompts]))
    queries = classifier(torch.stack([embedded[text] for text in asked]))
    gaps = squared_distances(queries, keys)
    inside = gaps.diagonal().mean()  # -log p
    outside = []
    if unrelated:
        others = classifier(torch.stack([embedded[text] for text in unrelated]))
        outside.append(_outside(squared_distances(others, keys).amin(1)))
    is_own = torch.tensor([[one == other for other in prompts] for one in prompts])
    gaps = gaps.masked_fill(is_own.to(gaps.device), torch.inf).amin(1)
    if (has_other := gaps.isfinite()).any():
        outside.append(_outside(gaps[has_other]))
    return inside + torch.stack(outside).mean() if outside else inside


def _outside(distance: Tensor) -> Tensor:
    """Mean of -log(1 - p)."""
    return -(-torch.expm1(-distance.clamp_min(_LEAST))).log().mean()


def _drawn(texts: Sequence[str], generator: torch.Generator) -> str:
    return texts[int(torch.randint(len(texts), (), generator=generator))]
