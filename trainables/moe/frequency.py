"""Scores how rare an edit's knowledge is (GECE), and divides edits among experts by that score.

Source: MEMoE v2, "Enhancing Model Editing with Mixture of Experts Adaptors", Eq. 9 (GECE), 11 and
12 (division). GECE itself is Li et al.'s (2024). N edits, S tokens, F and D the sizes of the FFN's
output projection.

Choices where the paper is silent or cannot be taken literally:
- METEOR's penalty for fragments has weight 0 here: NLTK gives an exact answer of one word .5, so
  that well-known one-word answers would look miscalibrated. Words are runs of letters and digits.
- The denominator of Eq. 9 is an inner product and can be negative or nearly zero; `floored` keeps
  it at or above the 5 % quantile of its absolute value.
- GECE spans several decades. Before it is clustered or weighs a loss it is put on a scale [0, 1]:
  its logarithm, its rank, or itself.
- Floor and ceiling of Eq. 11 and 12 are exact: |D_1| = floor(pN), the tail holds the rest.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.moe.nltk_data import missing

Factors = tuple[Tensor, Tensor, Tensor]
Synonyms = Literal["none", "wordnet"]
Scale = Literal["log", "rank", "raw"]
Denominator = Literal["gradient", "absolute", "printed", "none"]

_FLOOR_QUANTILE = 0.05
_WORD = re.compile(r"\w+")


class _NoSynonyms:
    """Stands for WordNet where METEOR ends with its stem stage."""

    def synsets(self, word: str) -> list[Any]:
        """None."""
        return []


class Meteor:
    """METEOR (Banerjee and Lavie, 2005) as NLTK computes it, on lower-cased words."""

    def __init__(self, penalty: float, synonyms: Synonyms) -> None:
        """Choose the stages.

        Args:
            penalty: Weight gamma of the penalty for fragments; NLTK's default is 0.5.
            synonyms: `none` matches exact words and stems, `wordnet` then synonyms of the stems
                that are left (so NLTK does it: "car" meets "auto", but not "automobil").

        Raises:
            ConfigError: If `synonyms` is `wordnet` and NLTK does not find WordNet.
        """
        self._penalty = penalty
        self._wordnet: Any = _wordnet() if synonyms == "wordnet" else _NoSynonyms()

    def __call__(self, prediction: str, reference: str) -> float:
        """Score in [0, 1]; 0 when no word matches."""
        from nltk.translate.meteor_score import single_meteor_score

        return float(
            single_meteor_score(
                words(reference), words(prediction), wordnet=self._wordnet, gamma=self._penalty
            )
        )


def words(text: str) -> list[str]:
    """Runs of letters and digits, lower-cased; an accent is part of its letter."""
    return _WORD.findall(unicodedata.normalize("NFC", text.lower()))


def word_counts(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs in `texts`."""
    return Counter(word for text in texts for word in words(text))


def mean_word_frequency(text: str, counts: Mapping[str, int]) -> float | None:
    """Alpha of Eq. 9: mean relative frequency of the words of `text`, each counted once more.

    The extra count keeps a word that the corpus lacks from making alpha zero. None without words.
    """
    own = words(text)
    if not own:
        return None
    total = sum(counts.values()) + len(counts) + 1
    return sum(counts.get(word, 0) + 1 for word in own) / (len(own) * total)


def mean_gradient(factors: Iterable[Factors], num_edits: int) -> Tensor:
    """E of Eq. 9, (D, F): the mean over `num_edits` edits of their gradients in a linear layer.

    The gradient of edit i is G_i = sum over its tokens of delta z^T.

    Args:
        factors: Parts of all edits' tokens: gradients at the layer's output (S, D), the layer's
            inputs z (S, F), and the edit of each token (S,).
        num_edits: N, at least 1.
    """
    total: Tensor | None = None
    for deltas, keys, _ in factors:
        part = deltas.T @ keys
        total = part if total is None else total.add_(part)
    assert total is not None
    return total.div_(num_edits)


def gradient_products(factors: Iterable[Factors], num_edits: int, mean: Tensor) -> Tensor:
    """<E, G_i> of Eq. 9 for each edit, (N,) float64, without any edit's own gradient matrix.

    As G_i = sum over its tokens of delta z^T, <E, G_i> is the sum over its tokens of delta . (E z).
    The tokens come in parts, so memory does not grow with their number.

    Args:
        factors: As for `mean_gradient`.
        num_edits: N, at least 1.
        mean: E, (D, F).
    """
    found = torch.zeros(num_edits, dtype=torch.float64, device=mean.device)
    for deltas, keys, owner in factors:
        # in place: (S, F) is large
        products = (deltas @ mean).mul_(keys).sum(-1, dtype=torch.float64)
        found = found.index_add(0, owner, products)
    return found


def floored(products: Tensor) -> Tensor:
    """`products` (N,), none below the 5 % quantile of their absolute values."""
    floor = products.abs().quantile(_FLOOR_QUANTILE)
    return products.clamp_min(float(floor))


def gece(
    meteor: Tensor, confidence: Tensor, alpha: Tensor, products: Tensor, denominator: Denominator
) -> Tensor:
    """Generative expected calibration error (Eq. 9) of each edit, (N,); larger for rarer knowledge.

    |METEOR - mean token probability| / (alpha * <E, G_i>).

    Args:
        meteor: M(pred, ref), (N,) in [0, 1].
        confidence: Mean probability of the predicted tokens, (N,) in [0, 1].
        alpha: Average word frequency, (N,) above 0.
        products: <E, G_i>, (N,).
        denominator: `gradient` floors the product, `absolute` takes its absolute value, `printed`
            leaves it signed, `none` leaves it out.
    """
    bottom = {
        "gradient": lambda: floored(products),
        "absolute": products.abs,
        "printed": lambda: products,
        "none": lambda: torch.ones_like(products),
    }[denominator]()
    return (meteor - confidence).abs() / (alpha * bottom)


def scaled(scores: Tensor, scale: Scale) -> Tensor:
    """Normalised scores g in [0, 1], (N,) float64: smallest 0, largest 1; 0.5 when all are equal.

    `log` lifts scores of 0 to the smallest positive one. `rank` gives equal scores their mean rank.

    Raises:
        ValueError: If `scale` is `log` and a score is negative.
    """
    values = scores.double()
    if scale == "log":
        if bool((values < 0).any()):
            raise ValueError("a negative score has no logarithm")
        positive = values[values > 0]
        least = positive.min() if len(positive) else values.new_tensor(1.0)
        values = values.maximum(least).log()
    elif scale == "rank":
        below = (values[:, None] > values).sum(1).double()
        equal = (values[:, None] == values).sum(1).double()
        values = below + (equal - 1) / 2
    low, high = values.min(), values.max()
    if not high > low:
        return torch.full_like(values, 0.5)
    return (values - low) / (high - low)


def divide(
    scores: Tensor, num_experts: int, *, head_share: float, balance_weight: float
) -> list[int]:
    """The expert (from 0) that learns each edit: head first, then clusters of the tail, ascending.

    Source: Eq. 11 and 12. Edits are sorted by score, equal ones as they come. Expert 0 gets the
    floor(pN) lowest. The others share the rest so that J of Eq. 12 is smallest, no cluster being
    empty; with fewer edits in the tail than experts each gets one, and the last experts none.

    Args:
        scores: (N,), on the scale in which Eq. 12 measures distances.
        num_experts: n; with one expert it learns everything.
        head_share: p, in [0, 1].
        balance_weight: lambda of Eq. 12.
    """
    order = torch.argsort(scores, stable=True).tolist()
    if num_experts == 1:
        return [0] * len(order)
    num_head = int(np.floor(head_share * len(order) + 1e-9))  # .29 * 100 is 28.999...
    tail = scores.double().cpu().numpy()[order[num_head:]]
    sizes = [num_head, *balanced_clusters(tail, num_experts - 1, balance_weight)]
    labels = [0] * len(order)
    start = 0
    for expert, size in enumerate(sizes):
        for edit in order[start : start + size]:
            labels[edit] = expert
        start += size
    return labels


def balanced_clusters(
    values: NDArray[np.float64], num_clusters: int, balance_weight: float
) -> list[int]:
    """Sizes of the consecutive clusters of ascending `values` (M,) that make J of Eq. 12 smallest.

    J = sum of squared distances to the clusters' means + lambda * sum of |size - M / clusters|.
    For given sizes the sum of squares is smallest for consecutive clusters (it is a constant minus
    a convex function of the clusters' sums), so dynamic programming over their ends is exact.

    Args:
        values: Ascending.
        num_clusters: n - 1; fewer are made of fewer values.
        balance_weight: lambda.
    """
    count, used = len(values), min(num_clusters, len(values))
    if not used:
        return []
    ends = np.arange(count + 1)
    sums = np.concatenate([[0.0], np.cumsum(values - values.mean())])
    squares = np.concatenate([[0.0], np.cumsum((values - values.mean()) ** 2)])
    sizes = ends[None, :] - ends[:, None]  # [start, end]
    safe = np.maximum(sizes, 1)
    spread = squares[None, :] - squares[:, None] - (sums[None, :] - sums[:, None]) ** 2 / safe
    cost = spread + balance_weight * np.abs(sizes - count / num_clusters)
    cost[sizes < 1] = np.inf
    best = cost[0]  # [end]: one cluster over the first `end` values
    starts = []
    for _ in range(used - 1):
        total = best[:, None] + cost
        starts.append(total.argmin(0))
        best = total.min(0)
    found, end = [], count
    for start in reversed(starts):
        found.append(int(end - start[end]))
        end = int(start[end])
    return [end, *reversed(found)]


def shuffled_scores(num_edits: int, generator: torch.Generator) -> Tensor:
    """A score per edit that says nothing of it: a random permutation, (N,) float64 in [0, 1]."""
    ranks = torch.randperm(num_edits, generator=generator).double()
    return ranks / max(1, num_edits - 1)


def means_by_expert(values: Sequence[float], experts: Sequence[int]) -> dict[int, float]:
    """Mean of `values` over the edits of each expert that has any."""
    grouped: dict[int, list[float]] = {}
    for value, expert in zip(values, experts, strict=True):
        grouped.setdefault(expert, []).append(value)
    return {expert: sum(own) / len(own) for expert, own in sorted(grouped.items())}


def _wordnet() -> Any:
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        raise missing("wordnet") from None
    return wordnet
