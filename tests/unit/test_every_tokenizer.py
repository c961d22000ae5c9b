"""The same promises for tokenizers of every kind: what is scored is what has to be generated."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.unit import small_tokenizers
from trainables.errors import DataError
from trainables.interfaces import DecodeState, Edit, EditRecord, PromptBatch, Question
from trainables.metrics.evaluator import Evaluator, greedy
from trainables.prompts import edit_batch, has_blank_first, subject_last_token, tokenise

PAIRS = [
    ("The capital of Fooland is", "Bar City"),
    ("Where was Ada Quell born?", "Vesper"),
    ("Ada Quell's sister was born in", "1998"),
    ("The year is ", "2004"),  # a blank too many
    ("Who is Antonín Holý?", "Zdeněk of 漢字"),
    ("Ada Quell's sister works for Lumen Works in", "Oslo Bay"),
]
SUBJECTS = ["Fooland", "Ada Quell", "Ada Quell", "year", "Antonín Holý", "Lumen Works"]


@pytest.fixture(scope="module", params=small_tokenizers.ALL)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return small_tokenizers.ALL[request.param]()


def text_of(tokenizer: Any, ids: Any) -> str:
    """What the tokens spell, marks such as the begin token left out."""
    return str(
        tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    ).lstrip()  # a sign for a blank in front of a text is no letter of it


@pytest.mark.parametrize(("prompt", "target"), PAIRS)
def test_tokenise_then_the_prompts_own_tokens_lead_and_the_rest_spells_the_target(
    tokenizer: Any, prompt: str, target: str
) -> None:
    row = tokenise(tokenizer, prompt, target)
    alone = tokenise(tokenizer, prompt)
    assert row.ids[: row.prompt_length] == alone.ids
    assert text_of(tokenizer, alone.ids) == prompt
    assert text_of(tokenizer, row.ids) == f"{prompt} {target}"
    assert text_of(tokenizer, row.target) == target
    assert tokenizer.eos_token_id not in row.ids


@pytest.mark.parametrize(("prompt", "target"), PAIRS)
def test_tokenise_when_an_end_is_asked_for_then_there_is_exactly_one(
    tokenizer: Any, prompt: str, target: str
) -> None:
    open_row, closed = (tokenise(tokenizer, prompt, target, end=end) for end in (False, True))
    assert closed.ids == (*open_row.ids, tokenizer.eos_token_id)
    assert closed.prompt_length == open_row.prompt_length
    batch = edit_batch(tokenizer, [Edit(prompt, target)], end=True)
    assert tuple(batch.labels.tolist()) == closed.target


def test_tokenise_when_no_token_crosses_the_join_then_nothing_is_retokenised(
    tokenizer: Any,
) -> None:
    crosses = tokenizer("Ada Quell's sister was born in 1998")["input_ids"]
    own = tokenise(tokenizer, "Ada Quell's sister was born in")
    is_crossed = tuple(crosses[: len(own.ids)]) != own.ids
    row = tokenise(tokenizer, "Ada Quell's sister was born in", "1998")
    assert row.is_retokenised == is_crossed
    if not is_crossed:
        assert row.ids == tuple(crosses[: len(row.ids)])


def test_tokenise_when_one_token_is_prompt_and_target_then_the_prompt_keeps_its_own() -> None:
    merging = small_tokenizers.crosses_blanks()
    joint = merging("Ada Quell's sister was born in 1998")["input_ids"]
    assert "in 1998" in [merging.decode([token]) for token in joint]  # or it shows nothing
    row = tokenise(merging, "Ada Quell's sister was born in", "1998")
    assert row.is_retokenised
    assert merging.decode(row.target) == " 1998"


def test_tokenise_when_a_whole_text_is_one_token_then_the_prompt_is_not_empty() -> None:
    merges = [("a", "b"), ("ab", "Ġ"), ("abĠ", "c")]
    vocabulary = ["</s>", "a", "b", "Ġ", "c", "ab", "abĠ", "abĠc"]
    core = Tokenizer(models.BPE({token: n for n, token in enumerate(vocabulary)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    assert tokenizer("ab c")["input_ids"] == [7]
    row = tokenise(tokenizer, "ab", "c")
    assert (row.ids, row.prompt_length, row.is_retokenised) == ((5, 3, 4), 1, True)


@pytest.mark.parametrize(("prompt", "target"), [("", "Bar"), ("Who?", "  ")])
def test_tokenise_when_there_is_nothing_to_read_or_to_write_then_it_is_refused(
    prompt: str, target: str
) -> None:
    with pytest.raises(DataError, match="comes to no token"):
        tokenise(small_tokenizers.byte_level(), prompt, target)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("digits_singly", [False, False, True]), ("possessive_in_name", [False, False, False])],
)
def test_has_blank_first_of_numbers_where_digits_stand_singly(
    kind: str, expected: list[bool]
) -> None:
    tokenizer = small_tokenizers.ALL[kind]()
    rows = [tokenise(tokenizer, *PAIRS[n]) for n in (0, 5, 2)]
    assert [has_blank_first(tokenizer, row) for row in rows] == expected


@pytest.mark.parametrize(("pair", "subject"), list(zip(PAIRS, SUBJECTS, strict=True)))
def test_subject_last_token_is_a_prompt_token_that_holds_the_subjects_last_letter(
    tokenizer: Any, pair: tuple[str, str], subject: str
) -> None:
    prompt, _ = pair
    own = tokenise(tokenizer, prompt)
    last = subject_last_token(tokenizer, prompt, subject)
    assert last is not None
    assert last < own.prompt_length
    up_to = text_of(tokenizer, own.ids[: last + 1])
    behind = prompt.index(subject) + len(subject)
    assert up_to.startswith(prompt[:behind])
    assert not text_of(tokenizer, own.ids[:last]).startswith(prompt[:behind])


def records() -> list[EditRecord]:
    return [
        EditRecord(str(n), prompt, target, locality=(Question(prompt, target, "locality_far"),))
        for n, (prompt, target) in enumerate(PAIRS)
    ]


def test_evaluator_when_a_model_writes_the_targets_then_every_score_is_one(tokenizer: Any) -> None:
    evaluator = Evaluator(tokenizer, records())
    chosen = evaluator.select(scores=["reliability"])

    def writes_targets(
        prompts: PromptBatch, state: DecodeState | None
    ) -> tuple[torch.Tensor, DecodeState]:
        """Knows the tokens behind every prompt and behind every beginning of a target."""
        known = {}
        for pair in PAIRS:
            row = tokenise(tokenizer, *pair, end=True)
            for stop in range(row.prompt_length, len(row.ids)):
                known[row.ids[:stop]] = row.ids[stop]
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
        logits = torch.nn.functional.one_hot(torch.tensor(best), len(tokenizer)).float()
        return logits, DecodeState(route=grown)

    answers = evaluator.answers(writes_targets, chosen)
    texts = evaluator.generations(writes_targets, chosen)
    scores = evaluator.score(answers, answers, texts, texts)
    assert [score.exact for score in scores] == [1.0] * len(PAIRS)
    assert [score.generated for score in scores] == [1.0] * len(PAIRS)
    grown = greedy(writes_targets, [tokenise(tokenizer, PAIRS[0][0])], tokenizer)
    assert tuple(grown[0]) == tokenise(tokenizer, *PAIRS[0]).target


def test_tokenise_of_real_prompts_with_a_real_tokenizer_keeps_every_id(editing_data: Path) -> None:
    folder = editing_data / "gpt2_bpe"
    core = Tokenizer(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")
    zsre, counterfact = (
        [json.loads(line) for line in (editing_data / name).read_text("utf-8").splitlines()]
        for name in ("zsre/zsre_eval.jsonl", "counterfact/counterfact_500_multi.jsonl")
    )
    edits = [(fields["src"], fields["alt"]) for fields in zsre]
    edits += [(fields["prompt"], fields["target_new"]) for fields in counterfact]
    questions = [
        (fields["loc"].removeprefix("nq question:").strip(), fields["loc_ans"]) for fields in zsre
    ]
    rows = [tokenise(tokenizer, *pair) for pair in edits + questions]
    assert not any(row.is_retokenised for row in rows)
    is_blank = [has_blank_first(tokenizer, row) for row in rows]
    assert (sum(is_blank[: len(edits)]), sum(is_blank[len(edits) :])) == (3, 0)
    assert sum(len(row.target) == 1 for row in rows[: len(edits)]) == 1567
    shown = repr([(row.ids, row.prompt_length) for row in rows])
    assert hashlib.sha256(shown.encode()).hexdigest() == (
        "576486bfc6e40a0940f5ff6b56c8bfeccc520ed07ab1d90854099c48a809c1f4"
    )
