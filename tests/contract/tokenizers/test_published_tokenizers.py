"""Tokenizers of published checkpoints over all edits of ZsRE and CounterFact.

    EDITING_DATA=FOLDER .venv/bin/python -m pytest -m "slow or network" tests/contract/tokenizers

GPT-2's comes with the data; the others come out of packages, which an index has to give.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.contract.tokenizers import promises
from tests.contract.tokenizers.promises import Case, Counts
from tests.contract.tokenizers.published import PUBLISHED
from tests.npm_files import NotReachedError
from trainables.datasets import counterfact, zsre
from trainables.moe.entities import Chunker, EntityFinder, nltk_chunker
from trainables.prompts import has_blank_first, tokenise
from trainables.records import EditRecord

# Over 4,352 edits; behind them, how many of ZsRE's 3,852 locality answers begin with a lone blank.
COUNTS = {
    "gpt2": (Counts(3, 34, 0, 1567, 0), 0),  # a number keeps the blank before it
    "llama2": (Counts(534, 28, 0, 801, 0), 584),
    "mistral_v1": (Counts(534, 28, 0, 835, 0), 584),
    "mistral_v3": (Counts(534, 28, 0, 835, 0), 584),
    "tekken": (Counts(534, 33, 0, 1302, 0), 584),
    "llama3": (Counts(534, 34, 0, 1281, 0), 583),
    "qwen3": (Counts(534, 34, 0, 1280, 0), 583),
    "smollm2": (Counts(537, 29, 0, 1188, 0), 583),
    "gemma3": (Counts(534, 34, 0, 1405, 0), 584),
    "gptoss": (Counts(534, 49, 15, 1320, 0), 583),  # 15 names end in one token with their 's
}
REMOTE = [
    pytest.param(name, marks=[pytest.mark.slow, pytest.mark.network]) for name in sorted(PUBLISHED)
]


@pytest.fixture(scope="module")
def records(editing_data: Path) -> tuple[EditRecord, ...]:
    """Every edit, also those whose target was true before."""
    return (
        *zsre.load(editing_data / "zsre" / "zsre_eval.jsonl").records,
        *counterfact.load(editing_data / "counterfact" / "counterfact_500_multi.jsonl").records,
    )


@pytest.fixture(scope="module")
def cases(records: tuple[EditRecord, ...]) -> list[Case]:
    assert len(records) == 3852 + 500
    return [Case(each.prompt, each.target_new, each.subject or "") for each in records]


@pytest.fixture(scope="module")
def chunker(editing_data: Path) -> Chunker:
    return nltk_chunker(editing_data / "nltk_data", "as_printed")


def gpt2(editing_data: Path) -> PreTrainedTokenizerFast:
    folder = editing_data / "gpt2_bpe"
    core = Tokenizer(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")


@pytest.fixture(scope="module", params=[pytest.param("gpt2", marks=pytest.mark.slow), *REMOTE])
def published(
    request: pytest.FixtureRequest,
    editing_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Any]:
    """Name and tokenizer."""
    name = request.param
    if name == "gpt2":
        return name, gpt2(editing_data)
    try:
        return name, PUBLISHED[name].load(tmp_path_factory.mktemp(name))
    except NotReachedError as reason:
        pytest.skip(f"no package index is reached: {reason}")


def test_counts_over_real_records(
    published: tuple[str, Any], cases: list[Case], records: tuple[EditRecord, ...]
) -> None:
    name, tokenizer = published
    questions = [record.locality[0] for record in records[:3852]]
    answers = [tokenise(tokenizer, each.prompt, each.answer) for each in questions]
    assert not any(row.is_retokenised for row in answers)
    lone_blanks = sum(has_blank_first(tokenizer, row) for row in answers)
    assert (promises.counts(tokenizer, cases), lone_blanks) == COUNTS[name]


def test_every_promise_of_every_real_record(
    published: tuple[str, Any], cases: list[Case], chunker: Chunker
) -> None:
    _, tokenizer = published
    finder = EntityFinder(tokenizer, chunker)
    for case in cases:
        promises.joint_tokens(tokenizer, case)
        promises.one_end(tokenizer, case)
        promises.subjects_last_token(tokenizer, case)
        promises.subject_as_entity(tokenizer, case)
        promises.entities(tokenizer, case.prompt, chunker, finder)
    # NLTK finds no entity in so many prompts: whatever the tokenizer, it reads the same text.
    sources = [finder.find(tokenise(tokenizer, case.prompt).ids)[0] for case in cases]
    found = (sources[:3852].count("sentence"), sources[3852:].count("sentence"))
    assert found == (528, 47)


def test_a_model_that_writes_the_real_targets_gets_full_marks(
    published: tuple[str, Any], cases: list[Case]
) -> None:
    _, tokenizer = published
    by_prompt = {case.prompt: case for case in cases}
    assert len(by_prompt) == len(cases) - 1  # one prompt has two targets
    promises.generation(tokenizer, list(by_prompt.values()), batch_size=16)


def test_ids_of_gpt2_over_real_records_stay_what_they_are(
    editing_data: Path, cases: list[Case], records: tuple[EditRecord, ...]
) -> None:
    tokenizer = gpt2(editing_data)
    questions = [record.locality[0] for record in records[:3852]]
    pairs = [(case.prompt, case.target) for case in cases]
    pairs += [(each.prompt, each.answer) for each in questions]
    rows = [tokenise(tokenizer, *pair) for pair in pairs]
    shown = repr([(row.ids, row.prompt_length) for row in rows])
    assert hashlib.sha256(shown.encode()).hexdigest() == (
        "576486bfc6e40a0940f5ff6b56c8bfeccc520ed07ab1d90854099c48a809c1f4"
    )
