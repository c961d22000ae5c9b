from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_sentences import tiny_encoder
from trainables.artefacts import Artefacts
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, Edit, EditBatch, PromptBatch, TrainingRecord
from trainables.methods.lemoe import Config, Lemoe
from trainables.prompts import collate, edit_batch, tokenise
from trainables.seeding import trial_generators
from trainables.states import snapshot

FIRST = (
    Edit("The capital of Fooland is", "Vesper", "Fooland"),
    Edit("The capital of Barland is", "Oslo Bay", "Barland"),
    Edit("The capital of Quell is", "Lumen", "Quell"),
)
SECOND = (
    Edit("Who wrote The Long Tide?", "Ada Quell", "The Long Tide"),
    Edit("Who wrote The Long Bay?", "Ivo Marsh", "The Long Bay"),
)
TRAINING = (Edit("Ivo Marsh works for", "x"), Edit("Where was Ivo Marsh born?", "x"))
CONFIG = Config(
    edit_layer=2,
    expert="ffn",
    lora_rank=4,
    lora_alpha=None,
    num_experts=1,
    top_k=1,
    routing="kv_anchor",
    anchor="frozen",
    embedding="instance",
    anchor_source="subject",
    anchor_words="content",
    projection_size=None,
    router_temperature=0.1,
    renormalises_gates=True,
    bypass_weight=1.0,
    edit_lr=2e-2,
    num_steps=6,
    stop_loss=None,
    weight_decay=0.0,
)


@pytest.fixture
def artefacts(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path)


def built(backbone: Backbone, artefacts: Artefacts, **changes: Any) -> Lemoe:
    method = Lemoe(replace(CONFIG, **changes), backbone, artefacts, trial_generators(0))
    method.prepare([TrainingRecord(edit) for edit in TRAINING])
    return method


def batch_of(backbone: Backbone, edits: tuple[Edit, ...]) -> EditBatch:
    return edit_batch(backbone.tokenizer, edits, end=True)


def edit(method: Lemoe, batch: EditBatch) -> dict[str, int]:
    method.begin(batch)
    method.advance(method.num_steps)
    return dict(method.finish().counts)


def prompts_of(backbone: Backbone, edits: tuple[Edit, ...], target: str = "Bay") -> PromptBatch:
    rows = [tokenise(backbone.tokenizer, edit.prompt, target) for edit in edits]
    return collate(rows, pad_id=0)


@torch.no_grad()
def answers(method: Lemoe, prompts: PromptBatch) -> Tensor:
    return method.logits(prompts)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 3, "num_experts": 2}, "method.top_k is 3; .* method.num_experts=2"),
        ({"top_k": 0}, "method.top_k is 0"),
        ({"expert": "mlp"}, "method.expert is 'mlp'; allowed: ffn, lora"),
        ({"routing": "anchor"}, "method.routing is 'anchor'; allowed: kv_anchor"),
        ({"embedding": "word"}, "method.embedding is 'word'"),
        ({"num_experts": 0}, "method.num_experts is 0; it must be at least 1"),
        ({"projection_size": 0}, "method.projection_size is 0; it must be at least 1"),
        ({"router_temperature": 0.0}, "method.router_temperature is 0.0; it must be above 0"),
        ({"lora_alpha": -1.0}, "method.lora_alpha is -1.0; it must be above 0 or null"),
        ({"bypass_weight": -1.0}, "method.bypass_weight is -1.0; it must be at least 0"),
    ],
)
def test_config_when_a_value_is_out_of_range_then_names_key_and_range(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edit_layer": 4}, "method.edit_layer is 4; allowed: 0 to 3"),
        ({"expert": "lora", "lora_rank": 33}, r"method.lora_rank is 33; .* \[1, 32\]"),
    ],
)
def test_lemoe_when_the_backbone_has_no_such_layer_or_rank_then_says_so(
    llama: Backbone, artefacts: Artefacts, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        built(llama, artefacts, **changes)


def test_lemoe_when_experts_are_new_then_the_backbone_answers_bit_for_bit(
    backbone: Backbone, artefacts: Artefacts
) -> None:
    method = built(backbone, artefacts)
    batch = batch_of(backbone, FIRST)
    before = answers(method, batch.tokens)
    method.begin(batch)
    assert torch.equal(answers(method, batch.tokens), before)
    method.remove()


def test_lemoe_when_a_second_batch_is_learned_then_answers_of_the_first_do_not_move(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts)
    first = batch_of(llama, FIRST)
    edit(method, first)
    learned = answers(method, first.tokens)
    edit(method, batch_of(llama, SECOND))
    assert method.routes(first.tokens).tolist() == [0, 0, 0]
    assert method.routes(batch_of(llama, SECOND).tokens).tolist() == [1, 1]
    assert method.trained_routes() == [0, 0, 0, 1, 1]
    torch.testing.assert_close(answers(method, first.tokens), learned, atol=1e-5, rtol=0)


def test_routes_before_the_first_edit_are_minus_one(llama: Backbone, artefacts: Artefacts) -> None:
    method = built(llama, artefacts)
    assert method.routes(prompts_of(llama, FIRST)).tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"anchor": "learned"},
        {"embedding": "token"},
        {"routing": "conventional"},
        {"routing": "knowledge_anchor"},
    ],
)
def test_routes_when_the_target_changes_then_do_not(
    llama: Backbone,
    artefacts: Artefacts,
    changes: dict[str, Any],
) -> None:
    method = built(llama, artefacts, **changes)
    edit(method, batch_of(llama, FIRST))
    edit(method, batch_of(llama, SECOND))
    everything = FIRST + SECOND
    shares = [
        method._shares(prompts_of(llama, everything, target))
        for target in ("Bay", "Ivo Marsh Oslo")
    ]
    torch.testing.assert_close(shares[0], shares[1], atol=1e-6, rtol=0)


def test_lemoe_when_a_prompt_is_edited_again_then_the_newest_expert_answers(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, num_steps=30)
    for number, target in enumerate(("Vesper", "Oslo Bay", "Lumen", "Ada Quell")):
        batch = batch_of(llama, (replace(FIRST[0], target_new=target),))
        edit(method, batch)
        assert method.routes(batch.tokens).tolist() == [number]
        assert answers(method, batch.tokens).argmax(-1).tolist() == batch.labels.tolist()
    assert method.trained_routes() == [0, 1, 2, 3]


def test_prepare_then_subjects_of_others_are_no_anchors(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = Lemoe(replace(CONFIG, embedding="entity"), llama, artefacts, trial_generators(0))
    training = TrainingRecord(Edit("Oslo Bay was founded in", "Vesper", "Oslo Bay"))
    method.prepare([training])
    prompt = "Ada Quell left Oslo Bay for"
    counts = edit(method, batch_of(llama, (Edit(prompt, "Lumen", None),)))
    assert counts == {"entity_from_subject": 0, "entity_from_sentence": 1}
    # centred at the subject of what was read ahead, though none is known
    oslo = tokenise(llama.tokenizer, "Oslo Bay")
    own = llama.embedding(torch.tensor(oslo.ids[1:])).mean(0)  # but for the begin token
    torch.testing.assert_close(method._centre, own)
    method.remove()
    assert method.state().values["subjects"] == []


@pytest.mark.parametrize("changes", [{"routing": "conventional"}, {"embedding": "token"}])
def test_routes_are_the_expert_of_most_tokens(
    llama: Backbone, artefacts: Artefacts, changes: dict[str, Any]
) -> None:
    method = built(llama, artefacts, **changes)
    for each in (FIRST, SECOND, TRAINING):
        edit(method, batch_of(llama, each))
    prompts = prompts_of(llama, FIRST + SECOND)
    shares = method._shares(prompts)
    counts = shares * prompts.prompt_mask.sum(1)[:, None]
    torch.testing.assert_close(counts, counts.round(), atol=1e-4, rtol=0)  # whole tokens
    torch.testing.assert_close(shares.sum(1), torch.ones(5))
    assert torch.equal(method.routes(prompts), shares.argmax(1))


def test_lemoe_when_a_batch_gets_two_experts_then_each_learns_one_cluster(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, num_experts=2)
    assert edit(method, batch_of(llama, FIRST + SECOND)) == {}
    # The larger cluster's expert comes first.
    assert method.trained_routes() == [0, 0, 0, 1, 1]
    assert method.routes(prompts_of(llama, SECOND + FIRST)).tolist() == [1, 1, 0, 0, 0]


def test_lemoe_when_edits_are_fewer_than_experts_then_one_each_and_the_rest_is_counted(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, num_experts=5, top_k=5)
    assert edit(method, batch_of(llama, SECOND)) == {"experts_not_added": 3}
    assert sorted(method.trained_routes()) == [0, 1]


def test_lemoe_when_bypass_weight_is_zero_then_nothing_is_edited(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, bypass_weight=0.0)
    batch = batch_of(llama, FIRST)
    before = answers(method, batch.tokens)
    edit(method, batch)
    assert torch.equal(answers(method, batch.tokens), before)


def test_prepare_when_edits_of_another_split_are_given_then_they_alone_make_the_centre(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts)
    table = llama.embedding.weight
    means = [table[list(tokenise(llama.tokenizer, e.prompt).ids)].mean(0) for e in TRAINING]
    expected = torch.stack(means).mean(0)
    torch.testing.assert_close(method.state().tensors["centre"], expected)
    edit(method, batch_of(llama, FIRST))
    torch.testing.assert_close(method.state().tensors["centre"], expected)


def test_prepare_when_nothing_is_given_then_the_table_makes_the_centre(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = Lemoe(CONFIG, llama, artefacts, trial_generators(0))
    method.prepare(())
    torch.testing.assert_close(method.state().tensors["centre"], llama.embedding.weight.mean(0))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"inner", "outer"}),
        ({"anchor": "learned"}, {"inner", "outer", "keys", "projection_down", "projection_up"}),
        ({"routing": "conventional"}, {"inner", "outer", "router"}),
    ],
)
def test_begin_trains_the_new_experts_and_what_its_router_learns(
    llama: Backbone, artefacts: Artefacts, changes: dict[str, Any], names: set[str]
) -> None:
    method = built(llama, artefacts, **changes)
    edit(method, batch_of(llama, FIRST))
    method.begin(batch_of(llama, SECOND))
    method.advance(1)
    moments = snapshot(method.state()).inner("optimisation").tensors
    assert {name.split("/")[0] for name in moments} == names
    trained = [name for name, p in llama.model.named_parameters() if p.requires_grad]
    assert all(name.startswith("model.layers.2.mlp._banks.1.") for name in trained)
    assert len(trained) == 2


def test_load_when_only_known_subjects_stand_for_entities_then_they_are_known_again(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, embedding="entity")
    counts = edit(method, batch_of(llama, FIRST))
    assert counts == {"entity_from_subject": 3, "entity_from_sentence": 0}
    state, expected = snapshot(method.state()), answers(method, prompts_of(llama, FIRST))
    method.remove()
    loaded = Lemoe(replace(CONFIG, embedding="entity"), llama, artefacts, trial_generators(9))
    loaded.load(state)
    assert torch.equal(answers(loaded, prompts_of(llama, FIRST)), expected)
    loaded.remove()


def test_sentences_when_they_are_read_then_keys_are_made_of_them_and_tell_edits_apart(
    llama: Backbone, artefacts: Artefacts, tmp_path: Path
) -> None:
    encoder = tiny_encoder(tmp_path)
    artefacts.keep("sentence_encoder", lambda: encoder)
    method = built(llama, artefacts, embedding="sentence")
    centre = encoder.embed([each.prompt for each in TRAINING]).mean(0)
    torch.testing.assert_close(method.state().tensors["centre"], centre)
    counts = [edit(method, batch_of(llama, edits)) for edits in (FIRST, SECOND)]
    assert counts == [{}, {}]
    for edits, key in zip((FIRST, SECOND), method.state().tensors["router/keys"], strict=True):
        mean = encoder.embed([each.prompt for each in edits]).mean(0) - centre
        torch.testing.assert_close(key, mean / mean.norm())
    keys = method.state().tensors["router/keys"]
    for edits in (FIRST, SECOND):
        nearest = ((encoder.embed([each.prompt for each in edits]) - centre) @ keys.T).argmax(1)
        assert torch.equal(method.routes(prompts_of(llama, edits)), nearest)
    state, expected = snapshot(method.state()), answers(method, prompts_of(llama, FIRST))
    method.remove()
    changed = replace(CONFIG, embedding="sentence")
    loaded = Lemoe(changed, llama, artefacts, trial_generators(9))
    loaded.load(state)
    assert torch.equal(answers(loaded, prompts_of(llama, FIRST)), expected)
    loaded.remove()
    other = built(llama, artefacts, embedding="sentence", routing="conventional")
    edit(other, batch_of(llama, FIRST))  # that router reads hidden states: keys are not asked for
    other.remove()


def test_bytes_then_count_experts_keys_and_the_centre_once(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, expert="lora", lora_rank=1)
    assert method.inference_bytes() == 0
    edit(method, batch_of(llama, FIRST))
    # width 32, of 4 bytes: two factors, a key and the centre, and a byte that says what is replaced
    assert method.inference_bytes() == 4 * 32 * 4 + 1


def test_bytes_when_sentences_are_read_then_count_their_encoder(
    llama: Backbone, artefacts: Artefacts, tmp_path: Path
) -> None:
    encoder = tiny_encoder(tmp_path)
    artefacts.keep("sentence_encoder", lambda: encoder)
    method = built(llama, artefacts, expert="lora", lora_rank=1, embedding="sentence")
    edit(method, batch_of(llama, FIRST))
    # factors of width 32, and a key and the centre of the encoder's own
    assert method.inference_bytes() == 4 * (2 * 32 + 2 * encoder.size) + 1 + encoder.num_bytes
