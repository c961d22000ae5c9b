from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.unedited import FinalStates
from trainables.backbones.loading import load_backbone
from trainables.errors import ConfigError
from trainables.interfaces import (
    Backbone,
    DecodeState,
    Edit,
    EditBatch,
    EditReport,
    PromptBatch,
    TrainingRecord,
)
from trainables.methods import method_settings
from trainables.methods.memoe_v2.method import Config, MemoeV2
from trainables.prompts import collate, edit_batch, tokenise
from trainables.seeding import trial_generators
from trainables.states import snapshot

FAR = ("Who wrote it?",)
FIRST = (
    Edit("The capital of Fooland is", "Vesper", "Fooland", FAR, "Oslo"),
    Edit("The capital of Barland is", "Oslo Bay", "Barland", FAR, "Lumen"),
    Edit("Where was Ada Quell born?", "Lumen", "Ada Quell", FAR, "Vesper"),
    Edit("Ada Quell works for", "Ivo Marsh", "Ada Quell", FAR, "Oslo Bay"),
    Edit("Who wrote The Long Tide?", "Ada", "The Long Tide", FAR, "Ivo"),
)
SECOND = (
    Edit("Who wrote The Long Bay?", "Ivo Marsh", "The Long Bay"),
    Edit("Ivo Marsh lives in", "Vesper", "Ivo Marsh"),
)
YAML = Path(__file__).parents[3] / "search_spaces" / "method" / "memoe_v2.yaml"
CONFIG = replace(
    Config(**method_settings(yaml.safe_load(YAML.read_text()))),
    edit_layer=2,
    num_experts=3,
    edit_lr=2e-2,
    num_steps=12,
    weight_decay=0.0,
)


@pytest.fixture
def artefacts(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path)


def built(backbone: Backbone, artefacts: Artefacts, **changes: Any) -> MemoeV2:
    method = MemoeV2(replace(CONFIG, **changes), backbone, artefacts, trial_generators(0))
    method.prepare([TrainingRecord(edit) for edit in SECOND])
    return method


def batch_of(backbone: Backbone, edits: tuple[Edit, ...]) -> EditBatch:
    return edit_batch(backbone.tokenizer, edits, end=True)


def edit(method: MemoeV2, backbone: Backbone, edits: tuple[Edit, ...]) -> EditReport:
    method.begin(batch_of(backbone, edits))
    while not method.advance(5):
        pass
    return method.finish()


def prompts_of(backbone: Backbone, edits: tuple[Edit, ...]) -> PromptBatch:
    rows = [tokenise(backbone.tokenizer, e.prompt) for e in edits]
    return collate(rows, pad_id=0, scores_last=True)


def whole_rows(backbone: Backbone, edits: tuple[Edit, ...]) -> PromptBatch:
    """Scored at every token."""
    batch = batch_of(backbone, edits).tokens
    return replace(batch, scored=batch.attention_mask.bool())


@torch.no_grad()
def answers(method: MemoeV2, prompts: PromptBatch) -> Tensor:
    return method.logits(prompts)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"router": "attention"}, "method.router is 'attention'; allowed: chunks, one_key"),
        ({"gece_reference": "edit"}, "method.gece_reference is 'edit'; allowed: true_answer"),
        ({"top_k": 4}, r"method.top_k is 4; it must lie in \[1, method.num_experts=3\]"),
        ({"head_share": 1.5}, r"method.head_share is 1.5; it must lie in \[0, 1\]"),
        ({"warmup_share": 1.0}, r"method.warmup_share is 1.0; it must lie in \[0, 1\)"),
        ({"focal_power": -1.0}, "method.focal_power is -1.0; it must be at least 0"),
        ({"edit_lr": 0.0}, "method.edit_lr is 0.0; it must be above 0"),
        ({"num_experts": 0}, "method.num_experts is 0; it must be at least 1"),
        ({"gece_denominator": "printed"}, "method.cluster_scale is 'log'.*allowed: rank, raw"),
    ],
)
def test_config_when_a_value_is_out_of_range_then_key_and_range_are_named(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edit_layer": 4}, "method.edit_layer is 4; allowed: 0 to 3"),
        ({"router_chunks": 5}, "method.router_chunks is 5; it must divide 32"),
    ],
)
def test_method_when_the_backbone_does_not_fit_then_the_key_is_named(
    llama: Backbone, artefacts: Artefacts, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        built(llama, artefacts, **changes)


def test_edits_are_learned_by_the_experts_that_gece_says(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts)
    method.begin(batch_of(llama, FIRST))
    scores = snapshot(method.state()).inner("division").tensors["gece"]
    while not method.advance(5):
        pass
    report = method.finish()
    # floor(.2 * 5) = 1 edit is the head, 2 and 2 the tail
    order = [method.trained_routes()[i] for i in scores.argsort().tolist()]
    assert order == [0, 1, 1, 2, 2]
    assert report.counts == {
        "gece_without_true_answer": 0,
        "meteor_without_synonyms": 5,
        "word_frequency_from_prompt": 0,
        "empty_experts": 0,
    }
    assert method.routes(prompts_of(llama, FIRST)).tolist() == method.trained_routes()
    head = scores.min().item()
    assert report.numbers["mean_gece_expert_0"] == pytest.approx(head)
    assert 0.0 <= report.numbers["gece_nonpositive_products"] <= 1.0


def test_edits_without_a_division_are_learned_where_the_router_sends_them(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, division="none")
    report = edit(method, llama, FIRST)
    assert report.counts["edits_without_label"] == 5
    assert "empty_experts" not in report.counts
    assert method.trained_routes() == method.routes(prompts_of(llama, FIRST)).tolist()


def test_gece_when_nothing_reads_it_then_is_not_computed(
    llama: Backbone, artefacts: Artefacts
) -> None:
    changes = {"division": "random", "frequency_weighting": False, "balance_term": False}
    report = edit(built(llama, artefacts, **changes), llama, FIRST)
    assert (report.counts, report.numbers) == ({"empty_experts": 0}, {})


def test_one_edit_for_three_experts_leaves_two_empty(llama: Backbone, artefacts: Artefacts) -> None:
    method = built(llama, artefacts)
    assert edit(method, llama, FIRST[:1]).counts["empty_experts"] == 2
    assert method.trained_routes() == [1]  # floor(.2 * 1) = 0: no head


def test_a_second_batch_trains_the_same_experts_and_is_divided_as_on_the_unedited_model(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    def divisions(*batches: tuple[Edit, ...]) -> list[dict[str, Tensor]]:
        backbone = load_backbone(checkpoints["llama"])
        method, found = built(backbone, Artefacts(tmp_path / str(len(batches)))), []
        for edits in batches:
            method.begin(batch_of(backbone, edits))
            found.append(snapshot(method.state()).inner("division").tensors)
            assert method.state().inner("experts").values["bank_sizes"] == [3]
            while not method.advance(5):
                pass
            method.finish()
        return found

    after_another, alone = divisions(FIRST, SECOND)[1], divisions(SECOND)[0]
    torch.testing.assert_close(after_another["gece"], alone["gece"])
    assert torch.equal(after_another["labels"], alone["labels"])


@pytest.mark.parametrize("router", ["chunks", "sequence"])
def test_routes_are_read_off_the_unedited_model_also_after_an_edit(
    llama: Backbone, artefacts: Artefacts, router: str
) -> None:
    cache = PrefixCache()
    reader = FinalStates(Split(llama, 2, cache), cache, has_all_tokens=router == "sequence")
    prompts = prompts_of(llama, SECOND)  # not seen while editing
    expected, _ = reader.read(prompts)
    method = built(llama, artefacts, router=router)
    edit(method, llama, FIRST)
    found, _ = method._routing.read(prompts)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_gates_are_kept_while_decoding(llama: Backbone, artefacts: Artefacts) -> None:
    method = built(llama, artefacts)
    edit(method, llama, FIRST)
    with torch.no_grad():
        _, state = method.logits(prompts_of(llama, FIRST), DecodeState())
    gates = state.route
    assert torch.equal(gates.argmax(1), method.routes(prompts_of(llama, FIRST)))
    assert ((gates > 0).sum(1) == 1).all()


def test_bypass_when_it_weighs_nothing_then_nothing_is_edited(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, bypass_weight=0.0)
    before = answers(method, whole_rows(llama, FIRST))
    edit(method, llama, FIRST)
    assert torch.equal(answers(method, whole_rows(llama, FIRST)), before)


def drift(backbone: Backbone, artefacts: Artefacts, **changes: Any) -> float:
    """How far the prompts' own tokens are from where they were, in total variation."""
    method = built(backbone, artefacts, **changes)
    batch = batch_of(backbone, FIRST).tokens
    columns = torch.arange(batch.input_ids.shape[1])
    inside = replace(batch, scored=batch.prompt_mask & (columns < batch.prompt_ends[:, None]))
    before = answers(method, inside).softmax(-1)
    edit(method, backbone, FIRST)
    moved = (answers(method, inside).softmax(-1) - before).abs().sum(-1).mean()
    method.remove()
    return float(moved)


def test_balance_term_when_it_constrains_then_prompts_move_less_and_as_printed_more(
    llama: Backbone, artefacts: Artefacts
) -> None:
    without = drift(llama, artefacts, balance_term=False)
    weight = {"balance_weight": 5.0}
    assert drift(llama, artefacts, **weight) < 0.8 * without
    assert drift(llama, artefacts, **weight, balance_sign="printed") > 1.2 * without


def test_balance_term_when_unrelated_prompts_are_held_then_missing_ones_are_counted(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, balance_positions="locality")
    report = edit(method, llama, (*FIRST, *SECOND))
    assert report.counts["edits_without_locality"] == 2
    with pytest.raises(ConfigError, match=r"method\.balance_positions"):
        method.begin(batch_of(llama, SECOND))


def test_router_when_the_term_is_left_out_and_gates_are_constant_then_it_is_not_trained(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, router_term=False, gate="constant")
    method.begin(batch_of(llama, FIRST))
    before = snapshot(method.state()).inner("router").tensors
    method.advance(5)
    after = method.state().inner("router").tensors
    assert all(torch.equal(before[name], after[name]) for name in before)
    method.remove()
    guided = built(llama, artefacts, gate="constant")
    guided.begin(batch_of(llama, FIRST))
    before = snapshot(guided.state()).inner("router").tensors
    guided.advance(5)
    after = guided.state().inner("router").tensors
    assert not torch.equal(before["experts"], after["experts"])


@pytest.mark.parametrize("merging", ["top_k", "soft", "soft_outputs"])
def test_merging_then_soft_lets_every_expert_learn_and_lowers_the_loss(
    llama: Backbone, artefacts: Artefacts, merging: str
) -> None:
    """Of three edits that one expert is told to learn, the others learn nothing."""
    method = built(llama, artefacts, merging=merging, head_share=1.0, num_steps=12)
    report = edit(method, llama, FIRST)
    assert report.final_loss is not None
    stored = method.state().tensors
    (bank,) = [tensor for name, tensor in stored.items() if name.endswith("outer")]
    learned = [bool(expert.abs().max() > 0) for expert in bank]
    assert learned == ([True, False, False] if merging == "top_k" else [True] * 3)


def test_soft_merging_then_parameters_are_mixed_and_not_outputs(
    llama: Backbone, artefacts: Artefacts
) -> None:
    prompts, found = prompts_of(llama, FIRST), []
    for merging in ("soft", "soft_outputs"):
        method = built(llama, artefacts, merging=merging)
        edit(method, llama, FIRST)
        found.append(method.logits(prompts)[0].detach())
        method.remove()
    assert not torch.allclose(*found)


def test_one_expert_then_it_learns_all_edits_at_full_weight(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, num_experts=1)
    report = edit(method, llama, FIRST)
    assert report.final_loss is not None
    assert set(method.trained_routes()) == {0}
