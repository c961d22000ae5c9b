import pytest
import torch
from torch import Tensor

from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.unedited import (
    FinalStates,
    gradient_factors,
    greedy_answers,
)
from trainables.interfaces import Backbone, Edit
from trainables.prompts import collate, edit_batch, tokenise

LAYER = 2
EDITS = (
    Edit("The capital of Fooland is", "Vesper"),
    Edit("Who wrote The Long Tide?", "Ada Quell of Oslo Bay"),
    Edit("Ada Quell works for", "Lumen"),
)


def whole_gradient(backbone: Backbone, edit: Edit) -> Tensor:
    """Of the FFN's output projection at one unpadded row, by autograd, as (D, F)."""
    row = tokenise(backbone.tokenizer, edit.prompt, edit.target_new)
    weight = backbone.model.get_parameter(f"{backbone.down_path(LAYER)}.weight")
    weight.requires_grad_(True)
    logits = backbone.model(input_ids=torch.tensor([row.ids])).logits[0]
    loss = torch.nn.functional.cross_entropy(
        logits[row.prompt_length - 1 : -1], torch.tensor(row.target)
    )
    (gradient,) = torch.autograd.grad(loss, weight)
    weight.requires_grad_(False)
    return gradient.T if backbone.family.is_transposed else gradient


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_gradient_factors_multiply_to_each_edit_s_own_gradient(
    backbone: Backbone, padding_side: str
) -> None:
    batch = edit_batch(backbone.tokenizer, EDITS, end=False, padding_side=padding_side)  # type: ignore[arg-type]
    site = Site(backbone, LAYER, backbone.down_path(LAYER), PrefixCache())
    ((deltas, keys, owner),) = gradient_factors(site, batch.tokens, batch.labels)
    for index, edit in enumerate(EDITS):
        own = owner == index
        expected = whole_gradient(backbone, edit)
        actual = deltas[own].T @ keys[own]
        scale = float(expected.abs().max())
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * scale)


def test_gradient_factors_when_cut_into_forward_passes_then_are_the_same(llama: Backbone) -> None:
    batch = edit_batch(llama.tokenizer, EDITS, end=True)
    site = Site(llama, LAYER, llama.down_path(LAYER), PrefixCache())
    (whole,) = gradient_factors(site, batch.tokens, batch.labels)
    parts = list(gradient_factors(site, batch.tokens, batch.labels, rows_at_a_time=2))
    assert len(parts) == 2
    deltas, keys, owner = (torch.cat(each) for each in zip(*parts, strict=True))
    assert torch.equal(owner, whole[2])
    torch.testing.assert_close(deltas, whole[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(keys, whole[1])


@torch.no_grad()
def test_greedy_answers_are_the_model_s_own_with_their_mean_probability(
    backbone: Backbone,
) -> None:
    tokenizer = backbone.tokenizer
    rows = [tokenise(tokenizer, edit.prompt) for edit in EDITS]
    lengths = [1, 4, 2]
    answers = greedy_answers(Split(backbone, LAYER, PrefixCache()), rows, lengths)
    for row, length, answer in zip(rows, lengths, answers, strict=True):
        ids, chances = list(row.ids), []
        while len(chances) < length:
            probabilities = backbone.model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
            chances.append(float(probabilities.max()))
            ids.append(int(probabilities.argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        text = tokenizer.decode(ids[len(row.ids) :], skip_special_tokens=True).strip()
        assert answer.text == text
        assert answer.probability == pytest.approx(sum(chances) / len(chances), abs=1e-4)


@torch.no_grad()
def final_states(backbone: Backbone, prompt: str) -> Tensor:
    """After the last norm, (tokens, D), of one unpadded prompt."""
    ids = torch.tensor([tokenise(backbone.tokenizer, prompt).ids])
    decoder = backbone.model.get_submodule(backbone.family.decoder)
    states: Tensor = decoder(input_ids=ids).last_hidden_state[0]
    return states


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_final_states_are_those_of_the_prompt_alone_also_before_a_target(
    backbone: Backbone, padding_side: str
) -> None:
    rows = [tokenise(backbone.tokenizer, edit.prompt, edit.target_new) for edit in EDITS]
    batch = collate(rows, pad_id=0, padding_side=padding_side)  # type: ignore[arg-type]
    expected = [final_states(backbone, edit.prompt) for edit in EDITS]
    for has_all in (False, True):
        cache = PrefixCache()
        reader = FinalStates(Split(backbone, LAYER, cache), cache, has_all_tokens=has_all)
        states, mask = reader.read(batch)
        for row, own in enumerate(expected):
            wanted = own if has_all else own[-1:]
            torch.testing.assert_close(states[row][mask[row]], wanted, atol=1e-4, rtol=0)
            torch.testing.assert_close(states[row, -1], own[-1], atol=1e-4, rtol=0)


def test_final_states_when_a_prompt_returns_then_the_backbone_is_not_asked(
    llama: Backbone,
) -> None:
    cache = PrefixCache()
    reader = FinalStates(Split(llama, LAYER, cache), cache, has_all_tokens=False)
    rows = [tokenise(llama.tokenizer, edit.prompt, edit.target_new) for edit in EDITS]
    first, _ = reader.read(collate(rows, pad_id=0))
    with torch.no_grad():
        llama.model.get_parameter(llama.layer_path(3) + ".mlp.down_proj.weight").zero_()
    alone = collate([tokenise(llama.tokenizer, EDITS[1].prompt)], pad_id=0)
    again, _ = reader.read(alone)
    assert torch.equal(again[0], first[1])
