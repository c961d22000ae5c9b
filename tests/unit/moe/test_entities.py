import json
import shutil
from pathlib import Path

import nltk
import pytest
import torch
from nltk.corpus.reader.wordlist import WordListCorpusReader
from nltk.corpus.util import LazyCorpusLoader

from tests.conftest import tiny_tokenizer
from tests.contract.tokenizers import small
from trainables.errors import ConfigError
from trainables.interfaces import PromptBatch
from trainables.moe.embeddings import PromptEmbedder, mean_embedding
from trainables.moe.entities import Chunker, EntityFinder, nltk_chunker
from trainables.prompts import collate, tokenise

TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module")
def folder(editing_data: Path) -> Path:
    return editing_data / "nltk_data"


@pytest.fixture(scope="module")
def chunker(folder: Path) -> Chunker:
    return nltk_chunker(folder)


@pytest.fixture
def without_nltk_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [])


def text_of(prompt: str, tokens: list[int]) -> str:
    ids = tokenise(TOKENIZER, prompt).ids
    return str(TOKENIZER.decode([ids[token] for token in tokens]))


def found(finder: EntityFinder, prompt: str) -> tuple[str, list[str]]:
    source, entities = finder.find(tokenise(TOKENIZER, prompt).ids)
    return source, [text_of(prompt, tokens).strip() for tokens in entities]


def test_find_when_nltk_knows_an_entity_then_its_tokens_are_named(chunker: Chunker) -> None:
    finder = EntityFinder(TOKENIZER, chunker)
    assert finder.uses_chunker
    # The piece before the name's first letter holds the space; the one after it is not part of it.
    assert found(finder, "Where was Ada Quell born?") == ("entity", ["Ada Quell"])


def test_find_when_nltk_finds_nothing_then_the_sentence_stands_in(chunker: Chunker) -> None:
    finder = EntityFinder(TOKENIZER, chunker)
    finder.add_subjects(["song"])  # subjects are looked for where they are asked for, only
    prompt = "who sings the song?"
    assert found(finder, prompt) == ("sentence", [f"<s>{prompt}"])


@pytest.mark.usefixtures("without_nltk_data")
def test_chunker_when_its_data_are_missing_then_it_is_refused(tmp_path: Path) -> None:
    for given in (None, tmp_path):
        with pytest.raises(ConfigError, match=r"make nltk.*method\.anchor_source=subject"):
            nltk_chunker(given)


def test_chunker_when_its_word_list_alone_is_missing_then_it_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # NLTK reads that list with the first text: it would fail in the middle of a trial.
    for name in ("taggers", "chunkers"):
        shutil.copytree(folder / name, tmp_path / name)
    monkeypatch.setattr(nltk.data, "path", [])
    fresh = LazyCorpusLoader("words", WordListCorpusReader, r"(?!README|\.).*")
    monkeypatch.setattr(nltk.corpus, "words", fresh)
    with pytest.raises(ConfigError, match="make nltk"):
        nltk_chunker(tmp_path)


QUESTIONS = {  # as NLTK has them -> without lone question words
    "Which company built Ada Quell?": (["Which", "Ada Quell"], ["Ada Quell"]),
    "Which river flows?": (["Which"], []),
    "What artist released How Do U Want It?": (["How Do"], ["How Do"]),
}


def test_spans_when_a_question_word_stands_alone_then_it_is_no_entity(
    folder: Path, chunker: Chunker
) -> None:
    printed = nltk_chunker(folder, "as_printed")
    for text, (before, after) in QUESTIONS.items():
        for chunk, expected in ((printed, before), (chunker, after)):
            names = [text[first:last] for first, last in chunk(text)]
            assert (text, names) == (text, expected)


@pytest.mark.slow  # four thousand prompts
def test_spans_of_real_prompts_then_so_many_lose_a_question_word(
    folder: Path, chunker: Chunker, editing_data: Path
) -> None:
    zsre = (editing_data / "zsre" / "zsre_eval.jsonl").read_text().splitlines()
    facts = (editing_data / "counterfact" / "counterfact_500_multi.jsonl").read_text().splitlines()
    prompts = [json.loads(line)["src"] for line in zsre]
    prompts += [json.loads(line)["prompt"] for line in facts]
    printed = nltk_chunker(folder, "as_printed")
    differing = [text for text in prompts if printed(text) != chunker(text)]
    assert (len(prompts), len(differing)) == (4352, 573)
    assert sum(not chunker(text) for text in differing) == 107
    assert sum(not printed(text) for text in prompts) == 528 + 47


def test_find_when_subjects_are_wanted_then_the_longest_known_one_is_found() -> None:
    finder = EntityFinder(TOKENIZER, None)
    assert not finder.uses_chunker
    prompt = "Where was Ada Quell born?"
    assert found(finder, prompt) == ("sentence", [f"<s>{prompt}"])
    finder.add_subjects(["Ada", None, "Ada Quell"])
    assert finder.subjects == ("Ada Quell", "Ada")
    assert found(finder, prompt) == ("subject", ["Ada Quell"])
    assert found(finder, "Ada Quell works for") == ("subject", ["Ada Quell"])
    assert found(finder, "Who is Ivo?")[0] == "sentence"


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_instance_embedding_is_the_mean_over_the_subjects_tokens(padding_side: str) -> None:
    table = torch.nn.Embedding(len(TOKENIZER), 3)
    embedder = PromptEmbedder(table, EntityFinder(TOKENIZER, None))
    assert embedder.finder is not None
    embedder.finder.add_subjects(["Ada Quell"])
    rows = [
        tokenise(TOKENIZER, "Where was Ada Quell born?", "Ada Quell"),
        tokenise(TOKENIZER, "Who wrote The Long Tide?", "Ada Quell"),
    ]
    prompts = collate(rows, pad_id=0, padding_side=padding_side)  # type: ignore[arg-type]
    _, entities = embedder.finder.find(rows[0].ids[: rows[0].prompt_length])
    expected = table.weight[[rows[0].ids[i] for i in entities[0]]].mean(0)
    whole = table.weight[list(rows[1].ids[: rows[1].prompt_length])].mean(0)
    actual = embedder.instance(prompts)
    torch.testing.assert_close(actual, torch.stack([expected, whole]).detach())
    # Row 1 names no subject in its prompt; that its target does must not show.
    assert embedder.fall_backs(prompts) == {"entity_from_subject": 1, "entity_from_sentence": 1}


def test_mean_embedding_counts_prompt_tokens_alone() -> None:
    prompts = PromptBatch(
        input_ids=torch.tensor([[5, 5, 5, 5], [5, 5, 5, 5]]),
        attention_mask=torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]]),
        prompt_lengths=torch.tensor([2, 1]),
        scored=torch.zeros(2, 4, dtype=torch.bool),
    )
    embedded = torch.tensor([[[9.0], [1.0], [3.0], [7.0]], [[4.0], [8.0], [8.0], [9.0]]])
    # Row 0 is padded on the left: (1 + 3) / 2; row 1: its first token alone.
    assert torch.equal(mean_embedding(prompts, embedded), torch.tensor([[2.0], [4.0]]))


def test_find_when_a_chunker_is_handed_over_then_it_is_asked() -> None:
    finder = EntityFinder(TOKENIZER, lambda text: [(4, 9)])
    assert finder.uses_chunker
    assert found(finder, "Who wrote it?") == ("entity", ["wrote"])


@pytest.mark.parametrize("kind", small.ALL)
@pytest.mark.parametrize("entity", ["Antonín Holý", "漢字", "Zdeněk"])
def test_find_when_an_entity_ends_in_a_letter_of_several_bytes_then_all_of_them_are_its_own(
    kind: str, entity: str
) -> None:
    tokenizer = small.ALL[kind]()
    prompt = f"Who is {entity}?"
    finder = EntityFinder(tokenizer, _finds(entity))
    ids = tokenise(tokenizer, prompt).ids
    _, [tokens] = finder.find(ids)
    assert tokens == list(range(tokens[0], tokens[-1] + 1))
    behind = tokenizer.decode(ids[tokens[-1] + 1 :], clean_up_tokenization_spaces=False)
    assert behind.strip() in ("?", "")  # no byte of the entity; one token may hold the mark too
    assert "\ufffd" not in behind
    assert entity in tokenizer.decode([ids[token] for token in tokens])


def _finds(entity: str) -> Chunker:
    def spans(text: str) -> list[tuple[int, int]]:
        begin = text.index(entity)
        return [(begin, begin + len(entity))]

    return spans
