"""Computes GECE of a batch of edits on an unedited backbone, stored so that trials share it.

Source: MEMoE v2, "Enhancing Model Editing with Mixture of Experts Adaptors", Eq. 9 and Appendix B.
GECE is high for rare knowledge. Its formula is in moe/frequency.py, the passes through the backbone
are in backbones/unedited.py.

Choices where the paper is silent or contradicts itself:
- The reference of METEOR is the answer that held before the edit (Section 2.2: "the ground
  truth"). Appendix B takes the edit's target; against a counterfactual one METEOR is near 0 for
  every edit, and GECE then grows with the confidence of what the model knows well.
- An edit without a known true answer: METEOR counts as 1, which leaves 1 - probability; counted.
- The prediction is the greedy answer, up to the end token or as many tokens as the reference has
  (the edit's target where there is none); p is the mean probability of its tokens.
- The gradient is that of the edited layer's FFN output projection alone, for the edit's target,
  its loss being a mean over tokens. `gece_target: true_answer` takes the true answer's, which makes
  rare knowledge look frequent: its gradients are the larger ones.
- The mean E goes over the batch. The paper's "entire dataset" (Section 2.2) holds the edits to
  come, which no editor knows: `gece_mean_over: training` takes the training part for it, at most
  its first 1,000 records; where there is none the batch, counted.
- alpha is the mean frequency of the subject's words (of the prompt's, where there is no subject or
  where asked) in the text that the caller hands over; no text, or no word: 1 for every edit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.covariance import different_passages, kept_passages
from trainables.backbones.hidden_states.unedited import (
    ROWS_PER_FORWARD,
    gradient_factors,
    greedy_answers,
)
from trainables.errors import EditDiverged
from trainables.interfaces import Backbone, Edit, EditBatch, Json, State
from trainables.moe import nltk_data
from trainables.moe.frequency import (
    Denominator,
    Factors,
    Meteor,
    Synonyms,
    gece,
    gradient_products,
    mean_gradient,
    mean_word_frequency,
    word_counts,
)
from trainables.moe.nltk_data import NltkData
from trainables.prompts import collate, edit_batch, labels_of, pad_id, tokenise

Answer = Literal["true_answer", "target_new"]
WordSource = Literal["subject", "prompt", "none"]
MeanOver = Literal["batch", "training"]

_NUM_MEAN_EDITS = 1000  # training records that make E


@dataclass(frozen=True)
class GeceSettings:
    """Readings of Eq. 9; see the module's docstring.

    Attributes:
        gece_reference: What METEOR compares with: the true answer or the edit's target.
        gece_target: The answer whose gradient is taken.
        gece_denominator: What becomes of the inner product.
        gece_word_source: Whose words make alpha; none: alpha is 1.
        gece_mean_over: The edits whose mean gradient is E.
        meteor_penalty: Weight of METEOR's penalty for fragments.
        meteor_synonyms: Whether METEOR uses WordNet.
    """

    gece_reference: Answer
    gece_target: Answer
    gece_denominator: Denominator
    gece_word_source: WordSource
    gece_mean_over: MeanOver
    meteor_penalty: float
    meteor_synonyms: Synonyms


@dataclass(frozen=True)
class Corpus:
    """What GECE takes from outside the edits.

    Attributes:
        word_counts: How often each word occurs in the text that alpha is taken from.
        training: The training part, for `gece_mean_over: training`.
    """

    word_counts: Mapping[str, int] = field(default_factory=dict)
    training: Sequence[Edit] = ()


@dataclass(frozen=True)
class Calibration:
    """GECE of each edit, with what a report says of it.

    Attributes:
        gece: (N,) float64.
        confidence: Mean probability of the predicted answer's tokens, (N,) float64.
        counts: Stated fall-backs, in edits.
        nonpositive_share: Share of the inner products <E, G_i> that are not above 0.
    """

    gece: Tensor
    confidence: Tensor
    counts: Mapping[str, int]
    nonpositive_share: float


def calibration(
    batch: EditBatch,
    settings: GeceSettings,
    split: Split,
    site: Site,
    artefacts: Artefacts,
    corpus: Corpus,
) -> Calibration:
    """GECE of the edits of `batch`; what comes from the backbone is built once and stored.

    Args:
        batch: Edits with their tokens.
        settings: Readings.
        split: The unedited backbone; its first layer is the edited one.
        site: At the output projection of that layer's FFN.
        artefacts: Where METEOR, probabilities and inner products are kept.
        corpus: Word counts and training part.

    Raises:
        EditDiverged: If a GECE is not finite; the message names the edit.
        ConfigError: If WordNet is asked for and missing.
    """
    needed: tuple[NltkData, ...] = ("wordnet",) if settings.meteor_synonyms == "wordnet" else ()
    inputs = _inputs(batch, settings, split)
    inputs["nltk_data"] = nltk_data.identity(needed, artefacts.nltk_data)
    averaged = corpus.training[:_NUM_MEAN_EDITS] if settings.gece_mean_over == "training" else ()
    mean = None
    if averaged:
        others = _alike(averaged, batch, split.backbone)
        mean_inputs = _gradient_inputs(others, settings, split)
        made = partial(_mean_gradient, others, settings.gece_target, split, site)
        mean = artefacts.get("gece_mean", mean_inputs, made).tensors["mean"]
        inputs["mean_over"] = mean_inputs
    made = partial(_parts, batch, settings, split, site, mean)
    parts = artefacts.get("gece", inputs, made).tensors
    alpha, counts = _alpha(batch.edits, settings.gece_word_source, corpus.word_counts)
    scores = gece(
        parts["meteor"], parts["probability"], alpha, parts["product"], settings.gece_denominator
    )
    for edit, score in zip(batch.edits, scores.tolist(), strict=True):
        if not math.isfinite(score):
            raise EditDiverged(
                f"GECE is {score} for the edit {edit.prompt!r} "
                f"(method.gece_denominator={settings.gece_denominator})"
            )
    if "true_answer" in (settings.gece_reference, settings.gece_target):
        counts["gece_without_true_answer"] = sum(e.true_answer is None for e in batch.edits)
    if settings.meteor_synonyms == "none":
        counts["meteor_without_synonyms"] = len(batch)
    if settings.gece_mean_over == "training" and not averaged:
        counts["gece_mean_of_batch"] = len(batch)
    share = float((parts["product"] <= 0).double().mean())
    return Calibration(scores, parts["probability"], counts, share)


def text_word_counts(backbone: Backbone, training: Sequence[Edit]) -> dict[str, int]:
    """How often each word occurs in the text that the checkpoint keeps of its own training.

    Without such a text, in the prompts and targets of `training`; empty without either.
    """
    if kept := kept_passages(None, backbone):
        return word_counts(kept[1])
    lines = [f"{edit.prompt} {edit.target_new}" for edit in training]
    lines += [prompt for edit in training for prompt in edit.training_locality]
    return word_counts(different_passages(lines))


def _inputs(batch: EditBatch, settings: GeceSettings, split: Split) -> dict[str, Json]:
    """Everything that the stored parts depend on."""
    return _gradient_inputs(batch, settings, split) | {
        "reference": settings.gece_reference,
        "meteor_penalty": settings.meteor_penalty,
        "meteor_synonyms": settings.meteor_synonyms,
    }


def _gradient_inputs(batch: EditBatch, settings: GeceSettings, split: Split) -> dict[str, Json]:
    """Everything that the edits' gradients depend on."""
    backbone = split.backbone
    shown = [[e.prompt, e.target_new, e.true_answer] for e in batch.edits]
    tokens = batch.tokens
    real = tokens.attention_mask.bool()
    ids = [row[mask].tolist() for row, mask in zip(tokens.input_ids, real, strict=True)]
    digest = hashlib.sha256(json.dumps([shown, ids, tokens.prompt_lengths.tolist()]).encode())
    return backbone.identity | {
        "layer": split.first_layer,
        "edits": digest.hexdigest(),
        "target": settings.gece_target,
    }


def _alike(edits: Sequence[Edit], batch: EditBatch, backbone: Backbone) -> EditBatch:
    """`edits` with their tokens; targets are closed by the end token where those of `batch` are."""
    end = int(batch.labels[-1]) == backbone.tokenizer.eos_token_id
    return edit_batch(backbone.tokenizer, edits, end=end, device=backbone.device)


def _parts(
    batch: EditBatch, settings: GeceSettings, split: Split, site: Site, mean: Tensor | None
) -> State:
    meteor = Meteor(settings.meteor_penalty, settings.meteor_synonyms)
    tokenizer = split.backbone.tokenizer
    references = [_answer(edit, settings.gece_reference) for edit in batch.edits]
    prompts = [tokenise(tokenizer, edit.prompt) for edit in batch.edits]
    lengths = [
        max(1, len(tokenise(tokenizer, edit.prompt, reference or edit.target_new).target))
        for edit, reference in zip(batch.edits, references, strict=True)
    ]
    answers = greedy_answers(split, prompts, lengths)
    scores = [
        1.0 if reference is None else meteor(answer.text, reference)
        for answer, reference in zip(answers, references, strict=True)
    ]
    return State(
        {
            "meteor": torch.tensor(scores, dtype=torch.float64),
            "probability": torch.tensor([a.probability for a in answers], dtype=torch.float64),
            "product": _products(batch, settings.gece_target, split, site, mean).cpu(),
        },
        {"answers": [answer.text for answer in answers]},
    )


def _mean_gradient(batch: EditBatch, target: Answer, split: Split, site: Site) -> State:
    factors = _factors(batch, target, split, site)
    with split.backbone.micro_batch.undivided():  # a stored part: other ranks may read it instead
        return State({"mean": mean_gradient(factors(), len(batch)).cpu()})


def _products(
    batch: EditBatch, target: Answer, split: Split, site: Site, mean: Tensor | None
) -> Tensor:
    """<E, G_i> of each edit, (N,); E is `mean`, or the mean over the batch itself."""
    factors = _factors(batch, target, split, site)
    with split.backbone.micro_batch.undivided():
        if mean is not None:
            return gradient_products(factors(), len(batch), mean.to(split.backbone.device))
        if len(batch) <= ROWS_PER_FORWARD:  # few enough to be held, and not computed twice
            held = list(factors())
            return gradient_products(held, len(batch), mean_gradient(held, len(batch)))
        return gradient_products(factors(), len(batch), mean_gradient(factors(), len(batch)))


def _factors(
    batch: EditBatch, target: Answer, split: Split, site: Site
) -> Callable[[], Iterator[Factors]]:
    """Gives the factors of the edits' gradients anew, each time it is called."""
    tokens, labels = batch.tokens, batch.labels
    if target == "true_answer":
        tokenizer, backbone = split.backbone.tokenizer, split.backbone
        rows = [
            tokenise(tokenizer, edit.prompt, edit.true_answer or edit.target_new)
            for edit in batch.edits
        ]
        tokens = collate(rows, pad_id=pad_id(tokenizer), device=backbone.device)
        labels = labels_of(tokens)
    rows_at_a_time = split.backbone.micro_batch.at_most(ROWS_PER_FORWARD)
    return partial(gradient_factors, site, tokens, labels, rows_at_a_time)


def _answer(edit: Edit, which: Answer) -> str | None:
    return edit.target_new if which == "target_new" else edit.true_answer


def _alpha(
    edits: Sequence[Edit], source: WordSource, frequencies: Mapping[str, int]
) -> tuple[Tensor, dict[str, int]]:
    """Average word frequency of each edit, (N,), and how many fell back on what."""
    ones = torch.ones(len(edits), dtype=torch.float64)
    if source == "none":
        return ones, {}
    if not frequencies:
        return ones, {"word_frequency_without_text": len(edits)}
    found: list[float | None] = []
    num_from_prompt = 0
    for edit in edits:
        own = mean_word_frequency(edit.subject or "", frequencies) if source == "subject" else None
        if own is None:
            num_from_prompt += source == "subject"
            own = mean_word_frequency(edit.prompt, frequencies)
        found.append(own)
    known = [frequency for frequency in found if frequency is not None]
    if len(known) < len(edits):
        return ones, {"word_frequency_without_words": len(edits)}
    return torch.tensor(known, dtype=torch.float64), {"word_frequency_from_prompt": num_from_prompt}
