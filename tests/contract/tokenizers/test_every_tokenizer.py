"""The same promises for tokenizers of every kind: what is scored is what has to be generated."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.contract.tokenizers import promises, small
from tests.contract.tokenizers.promises import Case, Counts, composed
from trainables.errors import DataError
from trainables.moe.entities import EntityFinder
from trainables.prompts import tokenise

CASES = [
    Case("The capital of Fooland is", "Bar City", "Fooland"),
    Case("Where was Ada Quell born?", "Vesper", "Ada Quell"),
    Case("Ada Quell's sister was born in", "1998", "Ada Quell"),
    Case("The year is ", "2004", "year"),  # a blank too many
    Case("Who is Antonín Holý?", "Zdeněk of 漢字", "Antonín Holý"),
    Case("Ada Quell's sister works for Lumen Works in", "Oslo Bay", "Lumen Works"),
    Case("Who  wrote  The Long Tide ?", "Ivo  Marsh", "The Long Tide"),  # blanks in a row
    Case("Ada  Quell was followed by Ada Quell in", "12,345", "Ada Quell"),  # named twice
    # Accents stand behind their letters, as the names of files have them on some systems.
    Case("Who knew Antoni\u0301n Holy\u0301?", "Zdene\u030ck", "Antoni\u0301n Holy\u0301"),
]
ALL = pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))


@pytest.fixture(scope="module", params=small.ALL)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return small.ALL[request.param]()


@ALL
@pytest.mark.parametrize(
    "promise",
    [
        promises.joint_tokens,
        promises.one_end,
        promises.subjects_last_token,
        promises.subject_as_entity,
    ],
)
def test_promise_of_one_prompt(
    promise: Callable[[Any, Case], None], tokenizer: Any, case: Case
) -> None:
    promise(tokenizer, case)


NAMES = re.compile(r"(?!Who|Where)[A-Z]\w+(?: [A-Z]\w+)*")


@pytest.mark.parametrize("prompt", sorted({composed(case.prompt) for case in CASES}))
def test_every_name_of_a_prompt_is_found_in_its_own_tokens(tokenizer: Any, prompt: str) -> None:
    def chunk(text: str) -> list[tuple[int, int]]:
        return [found.span() for found in NAMES.finditer(text)]

    assert chunk(prompt)
    promises.entities(tokenizer, prompt, chunk, EntityFinder(tokenizer, chunk))


def test_a_model_that_writes_the_targets_gets_full_marks(tokenizer: Any) -> None:
    promises.generation(tokenizer, CASES)


# As is counted of published tokenizers over real records: what each trait does to the cases above.
COUNTS = {  # lone blanks, subjects' last tokens that reach on (with letters), lone tokens, rejoined
    "byte_level": Counts(1, 0, 0, 3, 0),  # of "12,345", which it never read
    "digits_singly": Counts(3, 0, 0, 1, 0),  # of each number
    "digits_in_threes": Counts(3, 0, 0, 1, 0),
    "blank_as_sign": Counts(1, 1, 1, 1, 0),
    "blank_in_text": Counts(2, 1, 1, 0, 0),
    "blank_in_text_alone": Counts(2, 1, 1, 0, 0),
    "composes_letters": Counts(1, 0, 0, 4, 0),  # one more: the name with accents apart
    "crosses_blanks": Counts(5, 7, 2, 0, 4),  # "in 1998" would be prompt and target
    "appends_end": Counts(1, 0, 0, 3, 0),
    "only_appends_end": Counts(1, 0, 0, 3, 0),
    "possessive_in_name": Counts(1, 1, 1, 3, 0),  # "Quell's"
}


@pytest.mark.parametrize("kind", small.ALL)
def test_counts_show_the_trait_of_each_tokenizer(kind: str) -> None:
    assert promises.counts(small.ALL[kind](), CASES) == COUNTS[kind]


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
    merging = small.crosses_blanks()
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
        tokenise(small.byte_level(), prompt, target)
