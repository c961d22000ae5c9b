"""GRACE: the codebook by hand, and what the method promises beyond the contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.artefacts import Artefacts
from trainables.backbones.surgery import get_module
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, DecodeState, Edit, PromptBatch
from trainables.methods.grace.codebook import Codebook, same_key
from trainables.methods.grace.method import Config, Grace
from trainables.prompts import Row, collate, edit_batch, tokenise
from trainables.seeding import trial_generators
from trainables.states import snapshot

CONFIG = Config(
    edit_layer=2,
    edit_lr=1.0,
    num_steps=10,
    deferral_radius=0.05,
    replacement="replace_last",
    value_init="cold",
    skip_correct=False,
    on_equal_key="literal",
)
EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
    Edit("Ada Quell works for", "Lumen Works", "Ada Quell"),
)
CPU = torch.device("cpu")


def make(backbone: Backbone, folder: Path, **changes: Any) -> Grace:
    config = replace(CONFIG, **changes)
    return Grace(config, backbone, Artefacts(folder), trial_generators(0))


def apply(method: Grace, backbone: Backbone, *edits: Edit, chunk: int = 1000) -> Any:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True))
    while not method.advance(chunk):
        pass
    return method.finish()


def start(value: float) -> Any:
    return lambda: torch.tensor([value])


def point(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def test_insert_when_far_then_adds_and_when_near_then_splits_or_expands() -> None:
    book = Codebook(2, 1, CPU)
    assert book.insert(point(0, 0), (7,), 1.0, start(1)) == ("added", 0)
    # |(3, 4)| = 5 > 1 + 1
    assert book.insert(point(3, 4), (8,), 1.0, start(2)) == ("added", 1)
    # |(0, 1.6)| = 1.6 <= 1 + 1 and another target: radii 1.6 / 2 - 1e-5 and 1.6 / 2
    assert book.insert(point(0, 1.6), (9,), 1.0, start(3)) == ("split", 2)
    # |(1.5, 0)| to entry 0 is 1.5 <= 1 + .79999 and the same target: its radius grows to 1.5, and
    # by 1e-4 of the key's length
    assert book.insert(point(1.5, 0), (7,), 1.0, start(4)) == ("expanded", 0)
    torch.testing.assert_close(book.radii, point(1.50015, 1.0, 0.8))
    # the same prompt in another batch, its key rounded otherwise
    assert book.lookup(torch.tensor([[1.5001, 0.0]])).tolist() == [0]
    assert book.labels == [(7,), (8,), (9,)]
    assert book.values[:, 0].tolist() == [1, 2, 3]


def test_insert_when_the_same_key_comes_with_another_target_then_neither_answers() -> None:
    book = Codebook(2, 1, CPU)
    book.insert(point(3, 4), (7,), 1.0, start(1))
    assert book.insert(point(3, 4), (8,), 1.0, start(2)) == ("split", 1)
    # d = 0: radii 0 / 2 - 1e-5 and 0 / 2; of two equally near entries the older is found
    torch.testing.assert_close(book.radii, point(-1e-5, 0.0))
    assert book.lookup(torch.tensor([[3.0, 4.0]])).tolist() == [-1]


def test_insert_when_a_target_comes_again_at_one_key_then_it_answers_in_spite_of_rounding() -> None:
    book = Codebook(2, 1, CPU)
    for label in ((7,), (8,), (7,)):
        book.insert(point(3, 4), label, 1.0, start(1))
    torch.testing.assert_close(book.radii, point(0.0, 0.0))
    # 1e-4 of the key's length of 5 is rounding between two runs of one prompt; .001 is not
    assert book.lookup(torch.tensor([[3.0, 4.0001], [3.0, 4.001]])).tolist() == [0, -1]


@pytest.mark.parametrize(
    ("dtype", "is_same"), [(torch.float32, False), (torch.float16, False), (torch.bfloat16, True)]
)
def test_insert_when_keys_differ_as_in_bfloat16_then_they_are_equal_on_such_a_backbone(
    dtype: torch.dtype, is_same: bool
) -> None:
    book = Codebook(2, 1, CPU, "overwrite", same_key(dtype))
    book.insert(point(3, 4), (7,), 1.0, start(1))
    # 2 % of a key's length of 5
    change = book.insert(point(3, 4.1), (8,), 1.0, start(2))
    assert change == (("overwritten", 0) if is_same else ("split", 1))


def test_insert_when_equal_keys_overwrite_then_the_newer_target_takes_the_entry() -> None:
    book = Codebook(2, 1, CPU, "overwrite")
    book.insert(point(3, 4), (7,), 1.0, start(1))
    assert book.insert(point(3, 4), (8,), 1.0, start(2)) == ("overwritten", 0)
    assert (book.labels, book.values.tolist(), book.radii.tolist()) == ([(8,)], [[2]], [1])


def test_lookup_when_the_nearest_is_too_far_then_none_answers() -> None:
    book = Codebook(1, 1, CPU)
    book.insert(point(0.0), (7,), 1.0, start(1))
    book.insert(point(3.0), (8,), 1.0, start(2))
    book.radii = point(2.0, 0.5)
    # 1.4: nearest is 0 at 1.4 <= 2; 1.9: nearest is 3 at 1.1 > .5, though 0 would reach that far
    assert book.lookup(torch.tensor([[1.4], [1.9], [3.5], [-2.0]])).tolist() == [0, -1, 1, 0]


def whole(backbone: Backbone, *prompts: str) -> PromptBatch:
    """Prompts with a target, scored at every real position."""
    rows = [tokenise(backbone.tokenizer, prompt, "Bar") for prompt in prompts]
    tokens = collate(rows, pad_id=0)
    return replace(tokens, scored=tokens.attention_mask.bool())


@torch.no_grad()
def test_edit_at_a_small_radius_then_other_prompts_keep_every_bit(
    backbone: Backbone, tmp_path: Path
) -> None:
    method = make(backbone, tmp_path)
    others = whole(backbone, "Who wrote The Long Tide?", "The capital of Fooland was")
    before, _ = method.logits(others)
    with torch.enable_grad():
        report = apply(method, backbone, *EDITS)
    assert report.counts == {"added": 3}
    assert torch.equal(method.logits(others)[0], before)
    edited = edit_batch(backbone.tokenizer, EDITS, end=True)
    assert float(method.logits(edited.tokens)[0].abs().sum()) > 0
    method.remove()
    assert len(method.codebook) == 0


@pytest.mark.parametrize(("replacement", "kept"), [("replace_last", 1), ("replace_prompt", 0)])
@torch.no_grad()
def test_replacement_then_positions_before_it_keep_every_bit(
    replacement: str, kept: int, llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path, replacement=replacement)
    edit = EDITS[0]
    tokens = whole(llama, edit.prompt)
    before, _ = method.logits(tokens)
    with torch.enable_grad():
        apply(method, llama, edit)
    after, _ = method.logits(tokens)
    is_same = (before == after).all(1)
    end = int(tokens.prompt_ends[0])
    # replace_last changes position `end` and, by attention, what follows; replace_prompt 0 .. end-1
    first_changed = end if kept else 0
    assert is_same[:first_changed].all()
    assert not is_same[first_changed:].any()


def test_batch_then_as_one_edit_after_the_other(llama: Backbone, tmp_path: Path) -> None:
    together = make(llama, tmp_path, num_steps=4)
    report = apply(together, llama, *EDITS, chunk=3)
    alone = make(llama, tmp_path, num_steps=4)
    for edit in EDITS:
        apply(alone, llama, edit)
    assert report.num_steps == 4  # the three values share their steps
    assert together.codebook.labels == alone.codebook.labels
    torch.testing.assert_close(together.codebook.radii, alone.codebook.radii)
    torch.testing.assert_close(together.codebook.values, alone.codebook.values, atol=1e-3, rtol=0)


def test_batch_when_a_prompt_comes_twice_then_the_later_target_stands(
    llama: Backbone, tmp_path: Path
) -> None:
    again = replace(EDITS[0], target_new="Vesper")
    method = make(llama, tmp_path, num_steps=30, on_equal_key="overwrite")
    report = apply(method, llama, EDITS[0], EDITS[1], again)
    assert report.counts == {"added": 2, "overwritten": 1}
    assert report.num_steps == 60  # the third edit waits for the first
    only = make(llama, tmp_path, num_steps=30)
    apply(only, llama, EDITS[0], EDITS[1])
    batch = edit_batch(llama.tokenizer, [again], end=True)
    log_probs = [m.logits(batch.tokens)[0].log_softmax(-1) for m in (method, only)]
    first = [float(p[0, batch.labels[0]]) for p in log_probs]
    assert first[0] > first[1] + 1


def test_batch_when_a_prompt_comes_twice_and_the_rule_is_literal_then_it_is_unedited_again(
    llama: Backbone, tmp_path: Path
) -> None:
    again = replace(EDITS[0], target_new="Vesper")
    tokens = edit_batch(llama.tokenizer, EDITS[:1], end=True).tokens
    method = make(llama, tmp_path)
    before, _ = method.logits(tokens)
    apply(method, llama, EDITS[0])
    assert not torch.equal(method.logits(tokens)[0], before)
    assert apply(method, llama, again).counts == {"split": 1}
    assert torch.equal(method.logits(tokens)[0], before)
    # each learned by an entry of its own, and answered by none
    assert method.trained_routes() == [0, 1]
    assert method.routes(tokens).tolist() == [-1]


def test_batch_when_an_edit_comes_twice_then_its_value_is_trained_again(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path, num_steps=3)
    report = apply(method, llama, EDITS[0], EDITS[0])
    assert report.counts == {"added": 1, "expanded": 1}
    assert report.num_steps == 6
    assert len(method.codebook) == 1


def test_skip_correct_then_a_right_answer_costs_no_entry(llama: Backbone, tmp_path: Path) -> None:
    method = make(llama, tmp_path, skip_correct=True)
    row = tokenise(llama.tokenizer, EDITS[0].prompt)
    prompt = collate([row], pad_id=0, scores_last=True)
    token = int(method.logits(prompt)[0].argmax())
    batch = edit_batch(llama.tokenizer, [EDITS[0], EDITS[1]], end=False)
    rows = [Row((*row.ids, token), len(row.ids)), tokenise(llama.tokenizer, "Ada", "Vesper")]
    tokens = collate(rows, pad_id=0)
    labels = torch.tensor([token, *rows[1].target])
    method.begin(replace(batch, tokens=tokens, labels=labels))
    assert not method.advance(1)
    assert method.advance(1000)
    assert method.finish().counts == {"already_right": 1, "added": 1}
    assert method.trained_routes() == [-1, 0]
    apply(method, llama, EDITS[0])  # another target: the backbone does not give it
    assert method.trained_routes() == [-1, 0, 1]


def test_value_init_warm_then_nothing_changes_before_the_first_step(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path, value_init="warm")
    batch = edit_batch(llama.tokenizer, EDITS, end=True)
    before, _ = method.logits(batch.tokens)
    method.begin(batch)
    torch.testing.assert_close(method.logits(batch.tokens)[0], before, atol=1e-5, rtol=0)


@torch.no_grad()
def test_routes_then_the_entries_that_answer_are_found_without_the_layers_above(
    backbone: Backbone, tmp_path: Path
) -> None:
    method = make(backbone, tmp_path)
    asked = [edit.prompt for edit in (EDITS[1], EDITS[0], EDITS[2])]
    rows = [tokenise(backbone.tokenizer, text) for text in (*asked, "Who wrote The Long Tide?")]
    prompts = collate(rows, pad_id=0, scores_last=True)
    assert method.routes(prompts).tolist() == [-1, -1, -1, -1]
    with torch.enable_grad():
        apply(method, backbone, *EDITS)
    assert method.trained_routes() == [0, 1, 2]
    above = get_module(backbone.model, backbone.layer_path(CONFIG.edit_layer + 1))
    passes: list[int] = []
    handle = above.register_forward_hook(lambda *_: passes.append(1))
    found = method.routes(prompts)
    assert not passes
    _, state = method.logits(prompts, DecodeState())
    handle.remove()
    assert passes
    assert found.tolist() == [1, 0, 2, -1] == state.route.tolist()


def test_state_in_the_middle_of_a_batch_then_the_owners_are_those_of_one_go(
    llama: Backbone, tmp_path: Path
) -> None:
    again = replace(EDITS[0], target_new="Vesper")  # waits for the first edit to be trained
    batch = edit_batch(llama.tokenizer, (EDITS[1], EDITS[0], again), end=True)
    method, other = make(llama, tmp_path, num_steps=3), make(llama, tmp_path, num_steps=3)
    apply(method, llama, EDITS[2])
    method.begin(batch)
    assert not method.advance(4)
    other.load(snapshot(method.state()))
    for each in (method, other):
        while not each.advance(100):
            pass
        each.finish()
        assert each.trained_routes() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replacement": "replace_all"}, "method.replacement is 'replace_all'"),
        ({"value_init": "hot"}, "method.value_init is 'hot'"),
        ({"on_equal_key": "newest"}, "method.on_equal_key is 'newest'"),
        ({"num_steps": 0}, "method.num_steps is 0"),
        ({"deferral_radius": 0.0}, "method.deferral_radius is 0.0"),
    ],
)
def test_config_when_a_value_is_bad_then_names_it(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)
