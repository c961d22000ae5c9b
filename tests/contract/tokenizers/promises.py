"""What holds with every tokenizer: small ones that a test trains, and those of real checkpoints."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainables.interfaces import DecodeState, Edit, EditRecord, PromptBatch, Question
from trainables.metrics.evaluator import Evaluator
from trainables.metrics.generation import Logits, greedy
from trainables.moe.entities import Chunker, EntityFinder
from trainables.prompts import edit_batch, has_blank_first, subject_last_token, tokenise


@dataclass(frozen=True)
class Case:
    """A prompt that names its subject, and a target."""

    prompt: str
    target: str
    subject: str


def text_of(tokenizer: Any, ids: Any) -> str:
    """What the tokens spell, marks such as the begin token left out."""
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return composed(text).lstrip()  # a sign for a blank in front of a text is no letter of it


def composed(text: str) -> str:
    """The text with every accent in its letter: the same text, by Unicode's word."""
    return unicodedata.normalize("NFC", text)


def joint_tokens(tokenizer: Any, case: Case) -> None:
    """The prompt's own tokens lead, the rest spells the target, and nothing stands behind it."""
    row = tokenise(tokenizer, case.prompt, case.target)
    alone = tokenise(tokenizer, case.prompt)
    assert row.ids[: row.prompt_length] == alone.ids
    assert text_of(tokenizer, alone.ids) == composed(case.prompt)
    assert text_of(tokenizer, row.ids) == composed(f"{case.prompt} {case.target}")
    assert text_of(tokenizer, row.target) == composed(case.target)
    assert tokenizer.eos_token_id not in row.ids


def one_end(tokenizer: Any, case: Case) -> None:
    """Where an end is asked for there is exactly one, and it is a label."""
    open_row, closed = (
        tokenise(tokenizer, case.prompt, case.target, end=end) for end in (False, True)
    )
    assert closed.ids == (*open_row.ids, tokenizer.eos_token_id)
    assert closed.prompt_length == open_row.prompt_length
    batch = edit_batch(tokenizer, [Edit(case.prompt, case.target)], end=True)
    assert tuple(batch.labels.tolist()) == closed.target


def subjects_last_token(tokenizer: Any, case: Case) -> None:
    """It is a token of the prompt and holds the subject's last letter, or the last byte of it."""
    own = tokenise(tokenizer, case.prompt)
    last = subject_last_token(tokenizer, case.prompt, case.subject)
    assert last is not None
    assert last < own.prompt_length
    behind = case.prompt.rindex(case.subject) + len(case.subject)
    up_to = composed(case.prompt[:behind])
    assert text_of(tokenizer, own.ids[: last + 1]).startswith(up_to)
    assert not text_of(tokenizer, own.ids[:last]).startswith(up_to)


def subject_as_entity(tokenizer: Any, case: Case) -> None:
    """A subject that is looked for is found in its own tokens, the last one included.

    Where those tokens are is read from the tokens alone, and must be where the text says.
    """
    finder = EntityFinder(tokenizer, None)
    finder.add_subjects([case.subject])
    ids = tokenise(tokenizer, case.prompt).ids
    source, found = finder.find(ids)
    assert (source, len(found)) == ("subject", 1)
    _spells(tokenizer, ids, found[0], case.subject)
    assert found[0][-1] == subject_last_token(tokenizer, case.prompt, case.subject)


def entities(tokenizer: Any, prompt: str, chunk: Chunker, finder: EntityFinder) -> None:
    """Every entity of the prompt is found in its own tokens; without any, the prompt is taken.

    Args:
        tokenizer: Of the prompt.
        prompt: A text.
        chunk: Finds entities in a text.
        finder: Finds their tokens, with `chunk`.
    """
    ids = tokenise(tokenizer, prompt).ids
    source, found = finder.find(ids)
    text = text_of(tokenizer, ids)
    names = [text[slice(*span)] for span in chunk(text)]
    if not names:
        assert (source, found) == ("sentence", [list(range(len(ids)))])
        return
    assert (source, len(found)) == ("entity", len(names))
    for tokens, name in zip(found, names, strict=True):
        _spells(tokenizer, ids, tokens, name)


def _spells(tokenizer: Any, ids: Sequence[int], tokens: Sequence[int], name: str) -> None:
    """No token of `name` is missing, and none is of something else alone."""
    first, last, name = tokens[0], tokens[-1], composed(name)
    assert list(tokens) == list(range(first, last + 1))
    assert name in text_of(tokenizer, ids[first : last + 1])
    assert name not in text_of(tokenizer, ids[first + 1 : last + 1])
    assert name not in text_of(tokenizer, ids[first:last])


def generation(tokenizer: Any, cases: Sequence[Case], batch_size: int = 128) -> None:
    """A model that writes the targets' tokens and an end gets full marks, token by token and free.

    Args:
        tokenizer: Of the model.
        cases: Each prompt once.
        batch_size: Prompts read at a time.
    """
    model = writes(tokenizer, cases)
    records = [
        EditRecord(
            str(number),
            case.prompt,
            case.target,
            locality=(Question(case.prompt, case.target, "locality_far"),),
        )
        for number, case in enumerate(cases)
    ]
    evaluator = Evaluator(tokenizer, records, batch_size=batch_size)
    chosen = evaluator.select(scores=["reliability"])
    answers = evaluator.answers(model, chosen)
    texts = evaluator.texts(evaluator.generations(model, chosen))
    assert [composed(texts[i]) for i in chosen] == [composed(case.target) for case in cases]
    scores = evaluator.score(answers, answers, texts, texts)
    assert {score.exact for score in scores} == {1.0}
    assert {score.generated for score in scores} == {1.0}
    (grown,) = greedy(model, [tokenise(tokenizer, cases[0].prompt)], tokenizer)
    assert tuple(grown) == tokenise(tokenizer, cases[0].prompt, cases[0].target).target


def writes(tokenizer: Any, cases: Sequence[Case]) -> Logits:
    """A model that knows the token behind every prompt and behind every beginning of a target."""
    known = {}
    for case in cases:
        row = tokenise(tokenizer, case.prompt, case.target, end=True)
        for stop in range(row.prompt_length, len(row.ids)):
            known[row.ids[:stop]] = row.ids[stop]

    def logits(prompts: PromptBatch, state: DecodeState | None) -> tuple[torch.Tensor, DecodeState]:
        before = [] if state is None or state.route is None else state.route
        grown, best = [], []
        for index, (ids, mask) in enumerate(
            zip(prompts.input_ids, prompts.attention_mask.bool(), strict=True)
        ):
            read = (before[index] if before else ()) + tuple(ids[mask].tolist())
            grown.append(read)
            places = prompts.scored[index][mask].nonzero()[:, 0].tolist()
            start = len(read) - int(mask.sum())
            best += [known.get(read[: start + place + 1], 0) for place in places]
        ones = torch.tensor(best)[:, None]
        # In bytes: a real vocabulary has a quarter of a million tokens.
        scores = torch.zeros(len(best), len(tokenizer), dtype=torch.uint8).scatter_(1, ones, 1)
        return scores, DecodeState(route=grown)

    return logits


@dataclass(frozen=True)
class Counts:
    """How a tokenizer cuts some texts; what a reader of scores by token should know.

    Attributes:
        lone_blanks: Targets whose first token is a blank alone.
        beyond: Subjects whose last token holds something that stands behind the subject.
        beyond_letters: Those where that is more than signs, such as a possessive.
        single_tokens: Targets of one token.
        rejoined: Prompts whose tokens with and without a target do not agree.
    """

    lone_blanks: int
    beyond: int
    beyond_letters: int
    single_tokens: int
    rejoined: int


def counts(tokenizer: Any, cases: Sequence[Case]) -> Counts:
    """The tokenizer's counts over the cases."""
    rows = [tokenise(tokenizer, case.prompt, case.target) for case in cases]
    behind = [_behind_subject(tokenizer, case) for case in cases]
    return Counts(
        lone_blanks=sum(has_blank_first(tokenizer, row) for row in rows),
        beyond=sum(bool(text) for text in behind),
        beyond_letters=sum(any(map(str.isalpha, text)) for text in behind),
        single_tokens=sum(len(row.target) == 1 for row in rows),
        rejoined=sum(row.is_retokenised for row in rows),
    )


def _behind_subject(tokenizer: Any, case: Case) -> str:
    """What the subject's last token holds of the text behind the subject."""
    last = subject_last_token(tokenizer, case.prompt, case.subject)
    assert last is not None
    offsets = tokenizer(case.prompt, return_offsets_mapping=True)["offset_mapping"]
    stop = case.prompt.rindex(case.subject) + len(case.subject)
    return case.prompt[stop : offsets[last][1]]
