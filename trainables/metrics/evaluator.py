"""Runs prompts through an edited model and scores them per record.

Every score of a record is the mean over its prompts of that kind, and a published cell the mean
over records. Locality compares with what the pristine backbone predicts, computed once per backbone
and set of prompts; never with a model that other edits have changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trainables.interfaces import EditRecord, PromptBatch
from trainables.metrics.generation import (
    GENERATED_BEHIND,
    GENERATED_TOKENS,
    Logits,
    greedy,
    guesses,
)
from trainables.metrics.scores import (
    exact_match,
    generated_agreement,
    generated_exact_match,
    mean_over_records,
    perplexity,
    perplexity_summary,
    token_accuracy,
)
from trainables.metrics.wrong_answers import WrongAnswer, given_pieces, given_text
from trainables.prompts import (
    by_length,
    collate,
    has_blank_first,
    labels_of,
    pad_id,
    row_index,
    tokenise,
)

BATCH_SIZE = 128  # prompts read at a time, where memory allows
MEASURES = ("token", "exact", "generated", "token_no_blank")  # fields of `ProbeScore` to average
MAX_PERPLEXITY = 1e30  # a ruined model's is infinite, and a mean must stay a number


@dataclass(frozen=True)
class Probe:
    """One prompt that a record is scored on.

    `score` is reliability, generality, locality_near, locality_same, locality_far or portability.
    """

    record: int
    score: str
    prompt: str
    answer: str

    @property
    def is_locality(self) -> bool:
        """True when the answer is compared with the pristine backbone's, not with the target."""
        return self.score.startswith("locality")


@dataclass(frozen=True)
class ProbeScore:
    """How one probe was answered; one line of the per-record file."""

    record: int
    score: str
    prompt: str
    token: float
    exact: float
    token_no_blank: float | None = None  # None: scored before there was such a measure
    text: str | None = None
    generated: float | None = None
    perplexity: float | None = None  # of an edit whose target is running text
    wrong: WrongAnswer | None = None  # of an edit or a rephrase, where asked for


def probes_of(records: Sequence[EditRecord]) -> tuple[Probe, ...]:
    """All prompts that the records are scored on, in the order of the records."""
    probes: list[Probe] = []
    for index, record in enumerate(records):
        probes.append(Probe(index, "reliability", record.prompt, record.target_new))
        for rephrase in record.rephrases:
            probes.append(Probe(index, "generality", rephrase, record.target_new))
        for question in (*record.locality, *record.portability):
            probes.append(Probe(index, question.kind, question.prompt, question.answer))
    return tuple(probes)


class Evaluator:
    """Tokenised probes of a set of records, in length-sorted batches."""

    def __init__(
        self,
        tokenizer: Any,
        records: Sequence[EditRecord],
        *,
        batch_size: int = BATCH_SIZE,
        max_positions: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Tokenise every probe.

        Args:
            tokenizer: Of the backbone.
            records: What is scored.
            batch_size: Prompts read at a time.
            max_positions: Most tokens that the backbone reads as one row; None: any number.
            device: Where token rows go.
        """
        self.records = tuple(records)
        self.probes = probes_of(records)
        self._tokenizer = tokenizer
        self._max_positions = max_positions
        self._batch_size = batch_size
        self._device = device
        self._rows = [tokenise(tokenizer, p.prompt, p.answer) for p in self.probes]
        self._batches: dict[tuple[int, ...], list[tuple[list[int], PromptBatch]]] = {}
        self._has_blank = [has_blank_first(tokenizer, row) for row in self._rows]
        shown = repr([(row.ids, row.prompt_length) for row in self._rows])
        self.digest = hashlib.sha256(shown.encode()).hexdigest()

    @property
    def counts(self) -> dict[str, int]:
        """What the tokenizer did to the probes that a reader of the scores should know.

        `joins_retokenised`: prompts with a target that share no beginning with the prompt's own
        tokens. `blank_first_tokens`: edits whose target begins with a token that is a blank alone.
        """
        edits = self.select(scores=["reliability"])
        return {
            "joins_retokenised": sum(row.is_retokenised for row in self._rows),
            "blank_first_tokens": sum(self._has_blank[index] for index in edits),
        }

    @property
    def generation_limit(self) -> int:
        """Most tokens generated: for the longest target to fit, and within the positions."""
        rows = zip(self.probes, self._rows, strict=True)
        longest = max((len(row.target) for probe, row in rows if not probe.is_locality), default=0)
        limit = max(GENERATED_TOKENS, longest + GENERATED_BEHIND)
        if self._max_positions is None:
            return limit
        # The last token that is generated is not read.
        left = self._max_positions + 1 - max(row.prompt_length for row in self._rows)
        return max(1, min(limit, left))

    def longest_rows(self, *, ends: bool) -> dict[str, int]:
        """Tokens of the longest row of each record; with `ends` an edit gets an end token."""
        found: dict[str, int] = {}
        for probe, row in zip(self.probes, self._rows, strict=True):
            record = self.records[probe.record].record_id
            length = len(row.ids) + (ends and probe.score == "reliability")
            found[record] = max(length, found.get(record, 0))
        return found

    def select(
        self, records: Iterable[int] | None = None, scores: Sequence[str] | None = None
    ) -> list[int]:
        """Indices of the probes of these records and scores; None: all."""
        wanted = None if records is None else set(records)
        return [
            index
            for index, probe in enumerate(self.probes)
            if (wanted is None or probe.record in wanted)
            and (scores is None or probe.score in scores)
        ]

    @torch.no_grad()
    def answers(self, logits: Logits, chosen: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """Argmax tokens at the target positions of each chosen probe (teacher forced)."""
        found: dict[int, tuple[int, ...]] = {}
        for members, batch in self._batched(tuple(chosen)):
            predicted = logits(batch, None)[0].argmax(-1)
            counts = torch.bincount(row_index(batch), minlength=len(members)).tolist()
            for member, tokens in zip(members, predicted.split(counts), strict=True):
                found[member] = tuple(tokens.tolist())
        return found

    @torch.no_grad()
    def perplexities(self, logits: Logits, chosen: Sequence[int]) -> dict[int, float]:
        """Perplexity of each chosen probe's answer given its prompt, at most 1e30.

        The number of the SelfCheckGPT columns of LEMoE, arXiv:2406.20030v1, Table 1.
        """
        found: dict[int, float] = {}
        for members, batch in self._batched(tuple(chosen)):
            predicted = logits(batch, None)[0].float()
            losses = torch.nn.functional.cross_entropy(
                predicted, labels_of(batch), reduction="none"
            )
            values = perplexity(losses, row_index(batch), len(members))
            bounded = values.nan_to_num(nan=MAX_PERPLEXITY).clamp_max(MAX_PERPLEXITY)
            found.update(zip(members, bounded.tolist(), strict=True))
        return found

    @torch.no_grad()
    def generations(
        self,
        logits: Logits,
        chosen: Sequence[int],
        answers: Mapping[int, tuple[int, ...]] | None = None,
        before: Mapping[int, tuple[int, ...]] | None = None,
    ) -> dict[int, tuple[int, ...]]:
        """Greedy continuation of each chosen probe's prompt, without its end token.

        It ends with the end token or after `generation_limit` tokens. The prompt alone decides it.

        Args:
            logits: Of the model.
            chosen: Indices of probes.
            answers: What the model was found to answer at the target positions of these probes.
            before: What the pristine backbone generates, as a guess; see `greedy`.
        """
        rows = {i: tokenise(self._tokenizer, self.probes[i].prompt) for i in chosen}
        order, limit = list(rows), self.generation_limit
        found, drafts = dict[int, tuple[int, ...]](), dict[int, tuple[int, ...]]()
        if answers and before:
            asked = {i: (self.probes[i].score, self._rows[i].target) for i in chosen}
            drafts = guesses(asked, answers, before, self._tokenizer.eos_token_id, limit)
        for members in by_length(list(rows.values()), self._batch_size):
            indices = [order[m] for m in members]
            prompts = [rows[i] for i in indices]
            grown = greedy(
                logits,
                prompts,
                self._tokenizer,
                self._device,
                limit,
                known=[(self._rows[i].target, answers[i]) for i in indices] if answers else None,
                drafts=[drafts.get(i, ()) for i in indices],
            )
            found.update((i, tuple(ids)) for i, ids in zip(indices, grown, strict=True))
        return found

    def texts(self, generated: Mapping[int, Sequence[int]]) -> dict[int, str]:
        """Generated tokens as texts."""
        return {
            index: self._tokenizer.decode(ids, skip_special_tokens=True).strip()
            for index, ids in generated.items()
        }

    def score(
        self,
        answers: Mapping[int, tuple[int, ...]],
        before: Mapping[int, tuple[int, ...]],
        texts: Mapping[int, str] | None = None,
        texts_before: Mapping[int, str] | None = None,
        old: Mapping[int, Sequence[str]] | None = None,
    ) -> list[ProbeScore]:
        """Score each answered probe against its target or, for locality, against `before`.

        Args:
            answers: Argmax tokens by probe.
            before: The same of the pristine backbone; of all probes if `old` is given.
            texts: Generated texts by probe.
            texts_before: The same of the pristine backbone.
            old: For each record the answers that held before its edit; wrong answers to edits and
                rephrases then say what they were.
        """
        chosen = list(answers)
        expected = [
            before[i] if self.probes[i].is_locality else self._rows[i].target for i in chosen
        ]
        rows = _ids(row for row, ids in enumerate(expected) for _ in ids)
        predicted = _ids(token for i in chosen for token in answers[i])
        labels = _ids(token for ids in expected for token in ids)
        token = token_accuracy(predicted, labels, rows, len(chosen)).tolist()
        exact = exact_match(predicted, labels, rows, len(chosen)).tolist()
        is_kept = torch.tensor(
            [
                nth > 0 or not self._has_blank[i]
                for i, ids in zip(chosen, expected, strict=True)
                for nth in range(len(ids))
            ],
            dtype=torch.bool,
        )
        kept = (predicted[is_kept], labels[is_kept], rows[is_kept])
        no_blank = token if is_kept.all() else token_accuracy(*kept, len(chosen)).tolist()
        generated: list[float | None] = [None] * len(chosen)
        if texts is not None and texts_before is not None:
            for position, i in enumerate(chosen):
                if self.probes[i].is_locality:
                    match = generated_agreement([texts[i]], [texts_before[i]])
                else:
                    match = generated_exact_match([texts[i]], [self.probes[i].answer])
                generated[position] = match.item()
        found = [
            ProbeScore(
                record=self.probes[i].record,
                score=self.probes[i].score,
                prompt=self.probes[i].prompt,
                token=token[position],
                exact=exact[position],
                token_no_blank=no_blank[position],
                text=None if texts is None else texts[i],
                generated=generated[position],
            )
            for position, i in enumerate(chosen)
        ]
        if old is None:
            return found
        for position, i in enumerate(chosen):
            if self.probes[i].score in ("reliability", "generality"):
                shown = (found[position], answers[i], before[i], (texts_before or {}).get(i))
                wrong = self._wrong(i, *shown, old[self.probes[i].record])
                found[position] = replace(found[position], wrong=wrong)
        return found

    def prompt_batches(self, chosen: Sequence[int]) -> Iterator[PromptBatch]:
        """The chosen probes' prompts without their answers, in the order given."""
        pad = pad_id(self._tokenizer)
        for start in range(0, len(chosen), self._batch_size):
            members = chosen[start : start + self._batch_size]
            rows = [tokenise(self._tokenizer, self.probes[index].prompt) for index in members]
            yield collate(rows, pad_id=pad, scores_last=True, device=self._device)

    def _wrong(
        self,
        index: int,
        score: ProbeScore,
        said: tuple[int, ...],
        before: tuple[int, ...],
        text_before: str | None,
        old: Sequence[str],
    ) -> WrongAnswer | None:
        """What a probe's answer was where it is wrong, piece by piece or as a text."""
        if score.exact == 1.0 and score.generated != 0.0:
            return None
        probe, target = self.probes[index], self._rows[index].target
        held = [each for each in old if each.strip() and each != probe.answer]
        pieces = text = None
        if score.exact != 1.0:
            tokens = {each: tokenise(self._tokenizer, probe.prompt, each).target for each in held}
            pieces = given_pieces(self._tokenizer, probe.answer, target, said, before, tokens)
        if score.generated == 0.0 and score.text is not None and text_before is not None:
            text = given_text(score.text, text_before, probe.answer, held)
        return WrongAnswer(probe.answer, pieces, text)

    def _batched(self, chosen: tuple[int, ...]) -> list[tuple[list[int], PromptBatch]]:
        """Collated batches of the chosen probes, kept: every trial asks for the same ones."""
        if chosen not in self._batches:
            rows = [self._rows[index] for index in chosen]
            pad = pad_id(self._tokenizer)
            self._batches[chosen] = [
                (
                    [chosen[m] for m in members],
                    collate([rows[m] for m in members], pad_id=pad, device=self._device),
                )
                for members in by_length(rows, self._batch_size)
            ]
        return self._batches[chosen]


def _ids(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.long)


def aggregate(scores: Iterable[ProbeScore], measures: Sequence[str]) -> dict[str, float]:
    """`<score>.<measure>` -> mean over records of the mean over a record's prompts."""
    by_score: dict[str, list[ProbeScore]] = {}
    for score in scores:
        by_score.setdefault(score.score, []).append(score)
    means: dict[str, float] = {}
    for name, members in by_score.items():
        for measure in measures:
            values = [getattr(member, measure) for member in members]
            if None in values:
                continue  # generation is asked for at the end only
            records = torch.tensor([member.record for member in members])
            mean = mean_over_records(torch.tensor(values, dtype=torch.float64), records)
            if mean is not None:
                means[f"{name}.{measure}"] = mean
    return means


def with_perplexities(
    scores: Sequence[ProbeScore], probes: Sequence[int], measured: Mapping[int, float]
) -> list[ProbeScore]:
    """The scores of `probes`, in their order, each with its perplexity where it was `measured`."""
    return [
        replace(score, perplexity=measured.get(index))
        for score, index in zip(scores, probes, strict=True)
    ]


def aggregate_perplexity(scores: Iterable[ProbeScore]) -> dict[str, float]:
    """`perplexity.<mean, median, ...>` over the probes that have one; empty without any."""
    values = [score.perplexity for score in scores if score.perplexity is not None]
    if not values:
        return {}
    summary = perplexity_summary(torch.tensor(values, dtype=torch.float64))
    return {f"perplexity.{name}": value for name, value in asdict(summary).items()}
