"""Scores and lengths of probes with tokenizers that differ as real ones do."""

import pytest
import torch

from tests.contract.tokenizers import small
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.interfaces import Backbone, DecodeState, EditRecord, PromptBatch, Question
from trainables.metrics.evaluator import Evaluator, aggregate
from trainables.prompts import tokenise

DIGITS = small.digits_singly()
YEAR = EditRecord(
    "year",
    "The year is",
    "1998",
    locality=(Question("Who wrote The Long Tide, and when?", "1998", "locality_far"),),
)
NAME = EditRecord("name", "The capital of Fooland is", "Bar City")


def test_score_without_a_blank_leaves_out_a_first_token_that_is_one() -> None:
    evaluator = Evaluator(DIGITS, [YEAR, NAME])
    year, far, name = evaluator.select()
    target = evaluator._rows[year].target
    assert [DIGITS.decode([token]) for token in target] == [" ", "1", "9", "9", "8"]
    other = DIGITS.vocab_size - 1
    answers = {
        # the blank and the first digit are right: 2 of 5, and 1 of the 4 that say something
        year: (target[0], target[1], other, other, other),
        # of the pristine answer the blank and one digit are kept: 2 of 5, and 1 of 4
        far: (target[0], other, other, other, target[4]),
        name: (*evaluator._rows[name].target[:-1], other),
    }
    before = {far: target}
    scores = evaluator.score(answers, before)
    num_name = len(evaluator._rows[name].target)
    assert [s.token for s in scores] == pytest.approx([0.4, 0.4, 1 - 1 / num_name])
    assert [s.token_no_blank for s in scores] == pytest.approx([0.25, 0.25, 1 - 1 / num_name])
    row = aggregate(scores, ["token", "token_no_blank"])
    assert row["locality_far.token_no_blank"] == pytest.approx(0.25)
    # mean over the records year and name
    assert row["reliability.token_no_blank"] == pytest.approx((0.25 + 1 - 1 / num_name) / 2)


def test_counts_tell_blanks_of_edits_and_joins_of_all_probes() -> None:
    assert Evaluator(DIGITS, [YEAR, NAME]).counts == {
        "joins_retokenised": 0,
        "blank_first_tokens": 1,  # the locality question's answer is no edit
    }
    crossing = Evaluator(
        small.crosses_blanks(),
        [
            EditRecord("r", "Ada Quell's sister was born in", "1998"),  # " ", "19", "98"
            EditRecord("s", "Who is Antonín Holý?", "Vesper"),
        ],
    )
    assert crossing.counts == {"joins_retokenised": 1, "blank_first_tokens": 1}


def long_record(num_digits: int) -> EditRecord:
    return EditRecord("long", "The year is", "7" * num_digits)


def test_generation_limit_follows_the_longest_target_within_the_positions() -> None:
    prompt = len(tokenise(DIGITS, "The year is").ids)
    # 24 + 8 are 32, which is generated of any target; a blank and 39 digits + 8 are 48
    assert Evaluator(DIGITS, [long_record(23)]).generation_limit == 32
    assert Evaluator(DIGITS, [NAME, long_record(39)]).generation_limit == 48
    within = Evaluator(DIGITS, [long_record(39)], max_positions=prompt + 41)
    assert within.generation_limit == 42  # the last one is not read
    far = Question("Who?", "7" * 90, "locality_far")  # is compared up to its first stop alone
    assert Evaluator(DIGITS, [EditRecord("r", "a", "b", locality=(far,))]).generation_limit == 32


def test_longest_rows_hold_prompt_answer_and_the_end_token_of_an_edit() -> None:
    evaluator = Evaluator(DIGITS, [YEAR, NAME])
    edit = len(tokenise(DIGITS, YEAR.prompt, YEAR.target_new).ids)
    far = len(tokenise(DIGITS, YEAR.locality[0].prompt, "1998").ids)
    assert far > edit + 1
    assert evaluator.longest_rows(ends=False)["year"] == far
    alone = Evaluator(DIGITS, [EditRecord("year", YEAR.prompt, YEAR.target_new)])
    assert alone.longest_rows(ends=False) == {"year": edit}
    assert alone.longest_rows(ends=True) == {"year": edit + 1}


def test_generations_when_a_target_has_more_than_32_tokens_then_it_can_be_right() -> None:
    record = long_record(40)
    row = tokenise(DIGITS, record.prompt, record.target_new, end=True)

    def recites(
        prompts: PromptBatch, state: DecodeState | None
    ) -> tuple[torch.Tensor, DecodeState]:
        num_read = int(prompts.attention_mask.sum()) + (state.route if state.route else 0)
        logits = torch.nn.functional.one_hot(torch.tensor([row.ids[num_read]]), len(DIGITS))
        return logits.float(), DecodeState(route=num_read)

    evaluator = Evaluator(DIGITS, [record])
    texts = evaluator.texts(evaluator.generations(recites, [0]))
    [score] = evaluator.score({0: row.target[:-1]}, {}, texts, texts)
    assert score.text == "7" * 40
    assert score.generated == 1.0


@pytest.mark.parametrize("shift", [0.0, 0.05, 2.0], ids=["as it was", "a little", "much"])
def test_generations_are_the_same_whatever_is_known_and_guessed(
    llama: Backbone, shift: float
) -> None:
    """Of a model that is as before all texts are guessed, of one that is not some or none."""
    evaluator = Evaluator(llama.tokenizer, [YEAR, NAME, long_record(3)])
    chosen, model = evaluator.select(), Split(llama, 2, PrefixCache())
    first = evaluator.answers(model.logits, chosen)
    before = evaluator.generations(model.logits, chosen)
    assert evaluator.generations(model.logits, chosen, first) == before
    weight = llama.model.get_parameter(f"{llama.down_path(3)}.weight")
    with torch.no_grad():
        weight += shift * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    answers = evaluator.answers(model.logits, chosen)
    asked: list[bool] = []

    def noted(prompts: PromptBatch, state: DecodeState | None) -> tuple[torch.Tensor, DecodeState]:
        asked.append(state is None)
        return model.logits(prompts, state)

    found = evaluator.generations(noted, chosen, answers, before)
    assert found == evaluator.generations(model.logits, chosen)
    assert (found == before) == (shift == 0)
    assert any(asked) == (shift < 2)  # whole rows are read where a guess may be right
