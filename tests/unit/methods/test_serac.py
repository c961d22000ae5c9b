from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_sentences import tiny_encoder
from trainables.artefacts import Artefacts
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.errors import ConfigError, DataError
from trainables.interfaces import Backbone, Edit, PromptBatch, Question, TrainingRecord
from trainables.methods.serac.counterfactual import Counterfactual, first_layers, spans_of
from trainables.methods.serac.method import Config, Serac
from trainables.prompts import Row, collate, edit_batch, tokenise
from trainables.seeding import generator, trial_generators

EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Who wrote The Long Tide?", "Ada Quell", "The Long Tide"),
)
FAR = (Question("Where was Ivo Marsh born?", "Vesper", "locality_far"),)
TRAINING = (
    TrainingRecord(Edit("Ada Quell works for", "Lumen Works", "a"), ("Quell's work?",), FAR),
    TrainingRecord(Edit("Oslo Bay is in", "Barland", "b"), ("Where is Oslo Bay?",), FAR),
    TrainingRecord(Edit("Vesper leads", "Quell", "c"), ("What does Vesper lead?",), FAR),
)
CONFIG = Config(
    encoder="backbone",
    switch="hard",
    counterfactual_layers=2,
    template="{target}. {prompt} {target}.\n",
    random_targets=0.5,
    scope_lr=1e-2,
    scope_steps=4,
    counterfactual_lr=3e-3,
    counterfactual_steps=6,
    records_per_step=2,
    max_norm=10.0,
    validate_every=2,
    patience=100,
    held_out=0.3,
    most_held_out=1,
    training_seed=0,
)
OTHER = "Ivo Marsh lives in"


@pytest.fixture
def artefacts(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path / "artefacts")


def built(backbone: Backbone, artefacts: Artefacts, seed: int = 0, **changes: Any) -> Serac:
    method = Serac(replace(CONFIG, **changes), backbone, artefacts, trial_generators(seed))
    method.prepare(TRAINING)
    return method


def edit(method: Serac, backbone: Backbone, *edits: Edit) -> None:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True))
    method.advance(1)
    assert method.finish().num_edits == len(edits)


def batch_of(backbone: Backbone, side: Any = "right") -> PromptBatch:
    texts = ((EDITS[0].prompt, "Bar City"), (OTHER, "Oslo"), (EDITS[1].prompt, "Ada"))
    rows = [tokenise(backbone.tokenizer, *text) for text in texts]
    return collate(rows, pad_id=0, padding_side=side)


def shown(method: Serac, backbone: Backbone, edited: Edit, target: str) -> Row:
    """The row of an edit's prompt behind the edit's text, tokenised by hand."""
    target_new = edited.target_new
    text = backbone.tokenizer(f"{target_new}. {edited.prompt} {target_new}.\n").input_ids
    row = tokenise(backbone.tokenizer, edited.prompt, target)
    return Row((*text, *row.ids[1:]), len(text) - 1 + row.prompt_length)


@torch.no_grad()
def answered(backbone: Backbone, row: Row) -> Tensor:
    return Split(backbone, 0, PrefixCache()).logits(collate([row], pad_id=0))[0]


@torch.no_grad()
def answers(method: Serac, prompts: PromptBatch) -> Tensor:
    return method.logits(prompts)[0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompt_in_scope_is_answered_by_the_small_model_and_another_by_the_backbone(
    side: str, llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts)
    edit(method, llama, *EDITS)
    prompts = batch_of(llama, side)
    assert method.routes(prompts).tolist() == [0, -1, 1]
    small = method._small.backbone
    expected = torch.cat(
        [
            answered(small, shown(method, llama, EDITS[0], "Bar City")),
            answered(llama, tokenise(llama.tokenizer, OTHER, "Oslo")),
            answered(small, shown(method, llama, EDITS[1], "Ada")),
        ]
    )
    torch.testing.assert_close(answers(method, prompts), expected, atol=1e-4, rtol=0)


def test_soft_switch_mixes_both_by_the_probability_of_the_scope(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, switch="soft")
    edit(method, llama, *EDITS)
    prompts = batch_of(llama)
    edits, share = method._nearest(prompts)
    assert share[0] == pytest.approx(1.0, abs=1e-5)
    assert 0 < share[1] < 0.5  # in nobody's scope, and yet
    near = EDITS[int(edits[1])]
    text = llama.tokenizer(f"{near.target_new}. {near.prompt} {near.target_new}.\n").input_ids
    row = tokenise(llama.tokenizer, OTHER, "Oslo")
    told = Row((*text, *row.ids[1:]), len(text) - 1 + row.prompt_length)
    first = answered(llama, row).double().softmax(-1)
    second = answered(method._small.backbone, told).double().softmax(-1)
    expected = (1 - share[1]) * first + share[1] * second
    start = prompts.scored_counts[0]
    own = answers(method, prompts)[start : start + len(row.target)]
    torch.testing.assert_close(own.double().exp(), expected, atol=1e-4, rtol=0)
    assert method.routes(prompts)[1] == -1


def test_small_model_runs_few_rows_at_a_time_where_memory_is_short(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts)
    edit(method, llama, *EDITS)
    rows = [tokenise(llama.tokenizer, EDITS[0].prompt, text) for text in ("a", "b", "c", "d", "e")]
    prompts, most = collate(rows, pad_id=0), [0]
    small = method._small.backbone

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        most[-1] = max(most[-1], len(inputs[0]))

    small.model.get_submodule(small.ffn_path(1)).register_forward_pre_hook(count)
    found = []
    for limit in (None, 2):
        llama.micro_batch.limit = limit
        most.append(0)
        found.append(answers(method, prompts))
    assert most[1:] == [5, 2]
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


def test_later_edit_of_a_prompt_takes_the_place_of_the_earlier_one(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts)
    edit(method, llama, *EDITS)
    newer = replace(EDITS[0], target_new="Vesper")
    edit(method, llama, newer)
    assert method.routes(batch_of(llama)).tolist() == [2, -1, 1]
    assert method.trained_routes() == [2, 1, 2]
    expected = answered(method._small.backbone, shown(method, llama, newer, "Bar City"))
    torch.testing.assert_close(
        answers(method, batch_of(llama))[: len(expected)], expected, atol=1e-4, rtol=0
    )


def test_networks_are_trained_once_for_all_trials_of_the_same_settings(
    llama: Backbone, artefacts: Artefacts
) -> None:
    root = artefacts.cache / "artefacts"

    def kept() -> dict[str, bytes]:
        """Each artefact, and what says when it was made."""
        return {path.parent.name: path.read_bytes() for path in root.glob("serac_*/meta.json")}

    one = built(llama, artefacts)
    made = kept()
    assert len(made) == 2
    other = built(llama, Artefacts(root), seed=7, switch="soft")
    assert kept() == made
    weights = [
        torch.cat([p.flatten() for p in method._small.backbone.model.parameters()])
        for method in (one, other)
    ]
    assert torch.equal(*weights)
    built(llama, artefacts, counterfactual_lr=1e-3)
    assert len(kept()) == 3  # the classifier is the same
    built(llama, artefacts, template="{prompt} {target}.\n")
    assert len(kept()) == 4
    built(llama, artefacts, training_seed=1)
    assert len(kept()) == 6


def test_sentences_when_they_are_read_then_the_classifier_is_of_their_size(
    llama: Backbone, artefacts: Artefacts, tmp_path: Path
) -> None:
    encoder = tiny_encoder(tmp_path)
    artefacts.keep("sentence_encoder", lambda: encoder)
    method = built(llama, artefacts, encoder="sentence")
    edit(method, llama, *EDITS)
    units = encoder.embed([each.prompt for each in EDITS])
    with torch.no_grad():
        expected = method._classifier(units)
    torch.testing.assert_close(method.state().tensors["memory/keys"], expected)
    plain = built(llama, artefacts)
    edit(plain, llama, *EDITS)
    weights = 4 * (16 * 16 - 32 * 32) + encoder.num_bytes  # W is D x D
    keys = 4 * 2 * (16 - 32)
    assert method.inference_bytes() - plain.inference_bytes() == weights + keys


def test_small_model_with_all_layers_is_the_backbone(backbone: Backbone) -> None:
    row = tokenise(backbone.tokenizer, EDITS[0].prompt, "Bar City")
    whole = first_layers(backbone, backbone.num_layers)
    torch.testing.assert_close(answered(whole, row), answered(backbone, row), atol=1e-5, rtol=0)
    few = first_layers(backbone, 2)
    layers = few.model.get_submodule(backbone.family.layers)
    assert isinstance(layers, nn.ModuleList)
    assert len(layers) == few.num_layers == 2
    assert not torch.allclose(answered(few, row), answered(backbone, row), atol=1e-2)
    own = {id(parameter) for parameter in backbone.model.parameters()}
    assert own.isdisjoint(id(parameter) for parameter in few.model.parameters())


def test_training_teaches_layers_and_norm_alone_to_repeat_what_is_shown(llama: Backbone) -> None:
    small = Counterfactual(llama, 2, CONFIG.template)
    before = {name: each.clone() for name, each in small.backbone.model.named_parameters()}
    optimiser = torch.optim.Adam(small.trainable().values(), lr=3e-3)
    spans = spans_of(TRAINING)

    def loss(purpose: str) -> Tensor:
        return small.loss(TRAINING, spans, 0.5, generator(0, purpose))

    with torch.no_grad():
        first = float(loss("looked at"))
    for step in range(40):
        optimiser.zero_grad()
        loss(f"step {step}").backward()
        optimiser.step()
    with torch.no_grad():
        assert float(loss("looked at")) < first - 1.0
    changed = {
        name
        for name, each in small.backbone.model.named_parameters()
        if not torch.equal(each, before[name])
    }
    assert changed == set(small.trainable())
    assert not any("embed" in name or "head" in name for name in changed)
    assert any(name.startswith("model.norm") for name in changed)


def test_spans_are_runs_of_one_to_three_words_of_all_texts() -> None:
    record = TrainingRecord(
        Edit("Who leads Oslo Bay?", "Ivo"), ("Tell",), (Question("Where?", "In Rome", "x"),)
    )
    # of four words: 4 single ones, 3 pairs, 2 triples
    assert spans_of([record]) == sorted(
        [
            *("Who", "leads", "Oslo", "Bay", "Who leads", "leads Oslo", "Oslo Bay"),
            *("Who leads Oslo", "leads Oslo Bay", "Ivo", "Tell", "Where", "In", "Rome", "In Rome"),
        ]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"switch": "off"}, "method.switch is 'off'; allowed: hard, soft"),
        ({"random_targets": 1.5}, r"method.random_targets is 1.5; it must lie in \[0, 1\]"),
        ({"template": "{target}"}, "method.template is .* it must hold {prompt}"),
        ({"counterfactual_layers": 0}, "method.counterfactual_layers is 0; it must be at least 1"),
    ],
)
def test_config_when_a_value_does_not_fit_then_names_key_and_range(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **changes)


def test_serac_when_the_backbone_or_the_data_do_not_suffice_then_says_so(
    llama: Backbone, artefacts: Artefacts
) -> None:
    with pytest.raises(ConfigError, match=r"counterfactual_layers is 5; it must lie in \[1, 4\]"):
        built(llama, artefacts, counterfactual_layers=5)
    method = Serac(CONFIG, llama, artefacts, trial_generators(0))
    with pytest.raises(DataError, match=r"method serac trains a network .* there are 0"):
        method.prepare(())
