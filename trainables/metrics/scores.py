"""Scores from token ids, texts and losses; pure functions, float64, on the device that comes in.

A score is first a number per row (one prompt with its answer), then a mean per record over its
rows (several rephrases count as one record), then a mean over records: never token-weighted.

Reliability, generality and locality of LEMoE, arXiv:2406.20030v1, Eq. 4-6, compare a whole
answer, which is `exact_match`. The published tables come from the token form of the same
equations (`token_accuracy`): the teacher-forced share of target tokens that are the argmax.

Dimension letters: M scored positions, B rows, R records, N edits.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

OUTLIER_PERPLEXITY = 100.0

_END = re.compile(r"\n|\.(?=\s|$)")  # where an answer may end; not within "3.5"
# What a full stop abbreviates in the middle of a name: an initial, or what stands before a name.
_SHORT = re.compile(
    r"\b([^\W\d_]|St|Ste|Mt|Ft|Dr|Mr|Mrs|Ms|Prof|Rev|Gen|Col|Maj|Capt|Lt|Sgt|Gov|Sen|Rep|No|vs)$"
)

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class PerplexitySummary:
    """Perplexities of many rows; the mean is the published number, and outliers rule it."""

    mean: float
    median: float  # mean of the two middle values for an even count
    geometric_mean: float  # exp of the mean of the rows' mean losses
    outlier_share: float  # share of rows above 100


def token_accuracy(
    predicted: Tensor, labels: Tensor, rows: Tensor, num_rows: int | None = None
) -> Tensor:
    """Share of right tokens of each row, (B,) float64: 2 of 3 right gives 2/3.

    The token form of LEMoE, arXiv:2406.20030v1, Eq. 4 (edit prompts), Eq. 5 (rephrases) and Eq. 6
    (locality, where the pristine backbone's answer is the label and the right one plays no part).

    Args:
        predicted: Argmax token at each scored position, teacher-forced, (M,).
        labels: The target token there, (M,); for locality the argmax token of the pristine
            backbone, never of one that was edited before.
        rows: Row of each position, (M,), in any order.
        num_rows: B; by default one more than the largest of `rows`.

    Raises:
        ValueError: If the shapes differ, or a row has no scored position.
    """
    if not predicted.shape == labels.shape == rows.shape or rows.ndim != 1:
        shapes = f"{tuple(predicted.shape)}, {tuple(labels.shape)} and {tuple(rows.shape)}"
        raise ValueError(f"predicted, labels and rows must be (M,) each, not {shapes}")
    return _row_mean((predicted == labels).double(), rows, num_rows)


def exact_match(
    predicted: Tensor, labels: Tensor, rows: Tensor, num_rows: int | None = None
) -> Tensor:
    """1.0 for each row all of whose tokens are right, else 0.0, (B,) float64.

    LEMoE, arXiv:2406.20030v1, Eq. 4-6 as printed, with the answer teacher-forced. Arguments and
    errors as for `token_accuracy`.
    """
    return (token_accuracy(predicted, labels, rows, num_rows) == 1.0).double()


def retention(reliability: Tensor, batches: Tensor) -> float | None:
    """Mean reliability of the edits older than the last batch; None before the second batch.

    Args:
        reliability: Score of every edit so far, measured now, (N,).
        batches: Number of the batch that made each edit, (N,); the largest is the last batch.

    Raises:
        ValueError: If the shapes differ.
    """
    if reliability.shape != batches.shape:
        raise ValueError(
            f"{tuple(reliability.shape)} scores for {tuple(batches.shape)} batch numbers"
        )
    if not batches.numel():
        return None
    return _mean_or_none(reliability[batches < batches.max()])


def record_means(scores: Tensor, records: Tensor) -> Tensor:
    """Mean over the rows of each record that has any, by ascending record number, (R,) float64.

    Args:
        scores: One score per row, (B,).
        records: Record of each row, (B,), in any order.

    Raises:
        ValueError: If the shapes differ.
    """
    if scores.shape != records.shape or scores.ndim != 1:
        raise ValueError(
            f"scores and records must be (B,), not {tuple(scores.shape)}, {tuple(records.shape)}"
        )
    has_rows = torch.bincount(records) > 0
    positions = has_rows.cumsum(0) - 1  # record numbers may have gaps
    return _row_mean(scores.double(), positions[records], int(has_rows.sum()))


def mean_over_records(scores: Tensor, records: Tensor) -> float | None:
    """Mean over records of their means; None without rows, so that missing is never zero.

    Arguments and errors as for `record_means`.
    """
    return _mean_or_none(record_means(scores, records))


def stale_rate(exact: Sequence[float], questions: Sequence[int]) -> float:
    """Share of questions that are still answered with an outdated answer.

    It is of the questions whose older answers can be told apart from the last one: where all of a
    question's overlap with it, none can be called outdated, and the question does not count.

    Not a published number: what Section 3.1 of the serial-editing paper (ARM) warns of, that
    methods "generally retain historical answers to the same question".

    Args:
        exact: For every outdated answer, 1.0 where the edited model gives it exactly, now.
        questions: The question of each, at least one.

    Raises:
        ValueError: If the two differ in length or there is no answer.
    """
    if len(exact) != len(questions) or not questions:
        raise ValueError(f"{len(exact)} scores for {len(questions)} outdated answers")
    stale = {question for score, question in zip(exact, questions, strict=True) if score == 1.0}
    return len(stale) / len(set(questions))


def own_expert_rate(trained: Tensor, routed: Tensor) -> float | None:
    """Share of edits that are routed to the expert that learned them; None without edits.

    The mean of the diagonal of LEMoE, arXiv:2406.20030v1, Figure 2 (right), each expert weighted
    by its number of edits.

    Args:
        trained: Expert that holds each edit, (N,).
        routed: Expert that its prompt is sent to now, (N,); -1 where none is.

    Raises:
        ValueError: If the shapes differ.
    """
    if trained.shape != routed.shape:
        raise ValueError(f"trained is {tuple(trained.shape)}, routed {tuple(routed.shape)}")
    return _mean_or_none((trained == routed).double())


def generated_exact_match(
    generated: Sequence[str],
    targets: Sequence[str],
    *,
    normalises: bool = True,
) -> Tensor:
    """1.0 for each freely generated text that equals its target, else 0.0, (B,) float64.

    A text ends where the backbone wrote its end token (cut by the caller) or where `first_answer`
    says, never at the target's length.

    Args:
        generated: Greedy continuations of the prompts, decoded without special tokens.
        targets: One target per text.
        normalises: Compare as SQuAD does (see `squad_normalised`); otherwise only outer blanks
            are ignored. Either way an accent may be part of its letter or stand behind it: some
            tokenizers, such as Qwen's, write the one for the other.

    Raises:
        ValueError: If the numbers of texts differ.
    """
    matches = [
        same_answer(first_answer(text, target, normalises=normalises), target.strip(), normalises)
        for text, target in zip(generated, targets, strict=True)
    ]
    return torch.tensor(matches, dtype=torch.float64)


def generated_agreement(
    after: Sequence[str],
    before: Sequence[str],
    *,
    normalises: bool = True,
) -> Tensor:
    """Locality of free generation: 1.0 where both answers are the same, else 0.0, (B,) float64.

    Both texts are generations, so both end where `first_answer` says; what follows does not count.

    Args:
        after: Greedy continuations of the edited backbone.
        before: The same of the pristine backbone.
        normalises: As for `generated_exact_match`.

    Raises:
        ValueError: If the numbers of texts differ.
    """
    matches = [
        same_answer(first_answer(now), first_answer(then), normalises)
        for now, then in zip(after, before, strict=True)
    ]
    return torch.tensor(matches, dtype=torch.float64)


def squad_normalised(text: str) -> str:
    """`text` in lower case without ASCII punctuation, English articles and repeated blanks.

    Source: SQuAD, arXiv:1606.05250, section 6 (punctuation and articles are ignored); lower case
    and the order of the steps are those of its evaluation script.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def first_answer(text: str, target: str = "", *, normalises: bool = True) -> str:
    """The answer at the beginning of `text`: its first line or sentence.

    A full stop ends a sentence where a blank or nothing follows, unless it abbreviates what stands
    before a name: "St. Louis" and "J. R. R. Tolkien" are whole answers.

    Args:
        text: Greedy continuation of a prompt.
        target: An answer that may hold ends of its own: the text goes on past as many, and ends
            behind the target where it begins with it ("U.S. It is" holds the answer "U.S.").
        normalises: How the two are compared, as for `generated_exact_match`.
    """
    answer, wanted = text.strip(), target.strip()
    num_within = sum(_is_end(wanted, each) for each in _END.finditer(wanted, 0, len(wanted) - 1))
    for found in _END.finditer(answer):
        for end in found.span():
            if wanted and same_answer(answer[:end], wanted, normalises):
                return answer[:end].strip()
        if _is_end(answer, found):
            if not num_within:
                return answer[: found.start()].strip()
            num_within -= 1
    return answer


def same_answer(answer: str, target: str, normalises: bool = True) -> bool:
    """Whether two answers are the same; `normalises` as for `generated_exact_match`."""
    answer, target = (unicodedata.normalize("NFC", text.strip()) for text in (answer, target))
    wanted = squad_normalised(target)
    # A target such as "A" or "?" is all article or punctuation: an empty answer would equal it.
    if not normalises or not wanted:
        return answer == target
    return squad_normalised(answer) == wanted


def perplexity(losses: Tensor, rows: Tensor, num_rows: int | None = None) -> Tensor:
    """Exp of the mean loss of each row's target tokens, (B,) float64.

    A uniform distribution gives the size of the vocabulary.

    Args:
        losses: Negative log-likelihood (natural logarithm) of each target token, (M,).
        rows: Row of each token, (M,).
        num_rows: B; by default one more than the largest of `rows`.

    Raises:
        ValueError: If the shapes differ, or a row has no token.
    """
    if losses.shape != rows.shape or rows.ndim != 1:
        raise ValueError(
            f"losses and rows must be (M,), not {tuple(losses.shape)}, {tuple(rows.shape)}"
        )
    return _row_mean(losses.double(), rows, num_rows).exp()


def perplexity_summary(perplexities: Tensor) -> PerplexitySummary:
    """Mean, median, geometric mean and share of outliers over rows.

    Raises:
        ValueError: If there are no rows.
    """
    if not perplexities.numel():
        raise ValueError("no perplexities to summarise")
    values = perplexities.double()
    ordered = values.sort().values
    middle = ordered[[(len(ordered) - 1) // 2, len(ordered) // 2]]
    return PerplexitySummary(
        mean=float(values.mean()),
        median=float(middle.mean()),
        geometric_mean=float(values.log().mean().exp()),
        outlier_share=float((values > OUTLIER_PERPLEXITY).double().mean()),
    )


def _row_mean(values: Tensor, rows: Tensor, num_rows: int | None) -> Tensor:
    if num_rows is None:
        num_rows = int(rows.max()) + 1 if rows.numel() else 0
    counts = torch.bincount(rows, minlength=num_rows)
    if len(counts) > num_rows:
        raise ValueError(f"a position belongs to row {len(counts) - 1} of {num_rows}")
    if not counts.all():
        raise ValueError(f"row {int((counts == 0).nonzero()[0])} has nothing to score")
    sums = torch.zeros(num_rows, dtype=torch.float64, device=values.device)
    return sums.index_add(0, rows, values) / counts


def _mean_or_none(values: Tensor) -> float | None:
    return float(values.double().mean()) if values.numel() else None


def _is_end(text: str, found: re.Match[str]) -> bool:
    """Whether an answer ends here for sure, whatever follows."""
    return found.group() == "\n" or not _SHORT.search(text, 0, found.start())
