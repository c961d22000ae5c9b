from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, Edit, EditBatch, PromptBatch
from trainables.methods.memoe_v1 import Config, MemoeV1
from trainables.prompts import collate, edit_batch, tokenise
from trainables.seeding import trial_generators
from trainables.states import snapshot
from trainables.trials.loop import Routed

FIRST = (
    Edit("The capital of Fooland is", "Vesper", "Fooland"),
    Edit("The capital of Barland is", "Oslo Bay", "Barland"),
    Edit("The capital of Quell is", "Lumen", "Quell"),
)
SECOND = (
    Edit("Who wrote The Long Tide?", "Ada Quell", "The Long Tide"),
    Edit("Who wrote The Long Bay?", "Ivo Marsh", "The Long Bay"),
)
CONFIG = Config(
    edit_layer=2,
    expert="ffn",
    num_experts=2,
    top_k=1,
    merging="top_k",
    renormalises_gates=False,
    routing_input="token",
    anchor_source="subject",
    anchor_words="content",
    anchor_scale="rescaled",
    router_noise=0.0,
    balance_weight=0.01,
    bypass_weight=1.0,
    edit_lr=2e-2,
    num_steps=6,
    stop_loss=None,
    weight_decay=0.0,
)


@pytest.fixture
def artefacts(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path)


def built(backbone: Backbone, artefacts: Artefacts, **changes: Any) -> MemoeV1:
    return MemoeV1(replace(CONFIG, **changes), backbone, artefacts, trial_generators(0))


def batch_of(backbone: Backbone, edits: tuple[Edit, ...]) -> EditBatch:
    return edit_batch(backbone.tokenizer, edits, end=True)


def edit(method: MemoeV1, batch: EditBatch) -> Mapping[str, int]:
    method.begin(batch)
    method.advance(method.num_steps)
    return method.finish().counts


def prompts_of(backbone: Backbone, edits: tuple[Edit, ...], target: str = "Bay") -> PromptBatch:
    rows = [tokenise(backbone.tokenizer, edit.prompt, target) for edit in edits]
    return collate(rows, pad_id=0, padding_side="left")


def experts_of(method: MemoeV1) -> dict[str, Tensor]:
    return snapshot(method.state()).inner("experts").tensors


@torch.no_grad()
def answers(method: MemoeV1, prompts: PromptBatch) -> Tensor:
    return method.logits(prompts)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 3}, r"method.top_k is 3; it must lie in \[1, method.num_experts=2\]"),
        ({"top_k": 0}, "method.top_k is 0"),
        ({"num_experts": 0}, "method.num_experts is 0; it must be at least 1"),
        ({"expert": "lora"}, "method.expert is 'lora'; allowed: ffn, dense, down"),
        ({"merging": "hard"}, "method.merging is 'hard'; allowed: top_k, soft, soft_outputs"),
        (
            {"routing_input": "knowledge"},
            "method.routing_input is 'knowledge'; allowed: token, sentence, anchor, anchor_only",
        ),
        ({"anchor_source": "noun"}, "method.anchor_source is 'noun'; allowed: entity, subject"),
        ({"anchor_scale": "unit"}, "method.anchor_scale is 'unit'; allowed: rescaled, raw"),
        ({"router_noise": -0.1}, "method.router_noise is -0.1; it must be at least 0"),
        ({"balance_weight": -1.0}, "method.balance_weight is -1.0; it must be at least 0"),
        ({"edit_lr": 0.0}, "method.edit_lr is 0.0; it must be above 0"),
    ],
)
def test_config_when_a_value_is_out_of_range_then_names_key_and_range(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **changes)


def test_memoe_when_the_backbone_has_no_such_layer_then_says_so(
    llama: Backbone, artefacts: Artefacts
) -> None:
    with pytest.raises(ConfigError, match=r"method.edit_layer is 4; allowed: 0 to 3"):
        built(llama, artefacts, edit_layer=4)


@pytest.mark.parametrize("expert", ["ffn", "dense", "down"])
@pytest.mark.parametrize("merging", ["top_k", "soft", "soft_outputs"])
def test_memoe_whatever_the_experts_then_starts_neutral_and_learns(
    llama: Backbone, artefacts: Artefacts, expert: str, merging: str
) -> None:
    method = built(llama, artefacts, expert=expert, merging=merging)
    batch = batch_of(llama, FIRST)
    before = answers(method, batch.tokens)
    method.begin(batch)
    assert torch.equal(answers(method, batch.tokens), before)
    method.advance(1)
    first = method.state().inner("optimisation").values["last_loss"]
    method.advance(method.num_steps)
    report = method.finish()
    assert isinstance(first, float)
    assert report.final_loss is not None
    assert report.final_loss < first
    assert not torch.equal(answers(method, batch.tokens), before)
    method.remove()


def test_memoe_when_a_second_batch_comes_then_the_same_experts_and_router_train_on(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts)
    edit(method, batch_of(llama, FIRST))
    experts = experts_of(method)
    router = snapshot(method.state()).inner("router").tensors["weight"]
    edit(method, batch_of(llama, SECOND))
    later = experts_of(method)
    assert {name: t.shape for name, t in later.items()} == {n: t.shape for n, t in experts.items()}
    assert all(not torch.equal(later[name], experts[name]) for name in experts)
    assert not torch.equal(method.state().inner("router").tensors["weight"], router)
    assert len(method.trained_routes()) == len(FIRST + SECOND)
    method.remove()


def test_token_routes_name_the_largest_gate_of_each_prompt_token(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, num_experts=3, top_k=2)
    assert isinstance(method, Routed)
    prompts = prompts_of(llama, FIRST + SECOND)
    assert torch.equal(method.token_routes(prompts), torch.full_like(prompts.input_ids, -1))
    assert method.routes(prompts).tolist() == [-1] * 5
    edit(method, batch_of(llama, FIRST))
    # The FFN's input, past the method's own path to it.
    seen: list[Tensor] = []
    hook = llama.model.get_submodule("model.layers.2.mlp").register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    answers(method, prompts)
    hook.remove()
    weight = snapshot(method.state()).inner("router").tensors["weight"]
    expected = (seen[0] @ weight.T).argmax(-1).where(prompts.prompt_mask, torch.tensor(-1))
    routes = method.token_routes(prompts)
    assert torch.equal(routes, expected)
    counts = torch.stack([(routes == expert).sum(1) for expert in range(3)], 1)
    assert torch.equal(method.routes(prompts), counts.argmax(1))
    method.remove()


def test_trained_routes_are_where_most_of_a_prompt_goes_when_its_batch_ends(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts)
    edit(method, batch_of(llama, FIRST))
    at_the_end = method.routes(prompts_of(llama, FIRST)).tolist()
    edit(method, batch_of(llama, SECOND))
    assert method.trained_routes()[:3] == at_the_end
    assert method.trained_routes()[3:] == method.routes(prompts_of(llama, SECOND)).tolist()
    method.remove()


@pytest.mark.parametrize("routing_input", ["token", "sentence", "anchor", "anchor_only"])
def test_routes_when_the_target_changes_then_do_not(
    llama: Backbone, artefacts: Artefacts, routing_input: str
) -> None:
    method = built(llama, artefacts, routing_input=routing_input, num_experts=4)
    edit(method, batch_of(llama, FIRST + SECOND))
    per_row = [
        [row[row >= 0].tolist() for row in method.token_routes(prompts_of(llama, FIRST, target))]
        for target in ("Bay", "Ivo Marsh Oslo")
    ]
    assert per_row[0] == per_row[1]
    method.remove()


def test_routes_when_the_anchor_alone_decides_then_all_tokens_of_a_prompt_agree(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, routing_input="anchor_only", num_experts=4)
    edit(method, batch_of(llama, FIRST))
    prompts = prompts_of(llama, FIRST)
    for row, expert in zip(method.token_routes(prompts), method.routes(prompts), strict=True):
        assert set(row[row >= 0].tolist()) == {int(expert)}
    # Another question about the subject has its anchor.
    asked = (Edit("Who rules Barland today?", "x"),)
    assert method.routes(prompts_of(llama, asked)) == method.routes(prompts)[1]
    method.remove()


@pytest.mark.parametrize("routing_input", ["sentence", "anchor", "anchor_only"])
def test_anchors_when_rescaled_then_are_divided_by_the_spread_of_the_table(
    llama: Backbone, artefacts: Artefacts, routing_input: str
) -> None:
    prompts = prompts_of(llama, FIRST)
    seen = {}
    for scale in ("raw", "rescaled"):
        method = built(llama, artefacts, routing_input=routing_input, anchor_scale=scale)
        method.begin(batch_of(llama, FIRST))
        seen[scale] = method._routing.features(prompts)
        method.remove()
    spread = llama.embedding.weight.detach().std()
    torch.testing.assert_close(seen["rescaled"] * spread, seen["raw"])


def test_anchor_when_known_subjects_are_asked_for_then_counts_what_stood_in(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, routing_input="anchor")
    edits = (*FIRST[:2], Edit("What is the answer?", "Vesper", "no such words"))
    counts = edit(method, batch_of(llama, edits))
    assert counts == {"entity_from_subject": 2, "entity_from_sentence": 1}
    method.remove()


def test_memoe_when_edits_are_fewer_than_experts_then_keeps_all_and_counts_those_beyond(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, num_experts=5)
    assert edit(method, batch_of(llama, SECOND)) == {"experts_beyond_edits": 3}
    assert experts_of(method)["0.inner"].shape[0] == 5
    assert "experts_beyond_edits" not in edit(method, batch_of(llama, FIRST + SECOND))
    method.remove()


def test_balance_weight_when_large_then_levels_the_load(
    llama: Backbone, artefacts: Artefacts
) -> None:
    batch = batch_of(llama, FIRST + SECOND)
    largest = {}
    for weight in (0.0, 30.0):
        method = built(llama, artefacts, balance_weight=weight, num_steps=25, edit_lr=5e-3)
        edit(method, batch)
        routes = method.token_routes(batch.tokens)
        load = torch.bincount(routes[routes >= 0], minlength=2)
        largest[weight] = int(load.max()) / int(load.sum())
        method.remove()
    assert largest[30.0] < 0.75  # of two experts; .5 is level
    assert largest[30.0] < largest[0.0]


def test_report_when_the_balance_loss_is_large_then_speaks_of_the_edits_alone(
    llama: Backbone, artefacts: Artefacts
) -> None:
    losses = []
    for weight in (0.0, 1e4):
        method = built(llama, artefacts, balance_weight=weight, num_steps=1)
        method.begin(batch_of(llama, FIRST))
        method.advance(1)
        losses.append(method.finish().final_loss)
        method.remove()
    # Before the first step both are the untouched backbone's; 1e4 + loss keeps 3 digits of it.
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


def test_gates_when_renormalised_at_top_1_then_the_edits_do_not_train_the_router(
    llama: Backbone, artefacts: Artefacts
) -> None:
    moved = []
    for renormalises in (True, False):
        method = built(llama, artefacts, renormalises_gates=renormalises, balance_weight=0.0)
        method.begin(batch_of(llama, FIRST))
        before = snapshot(method.state()).inner("router").tensors["weight"]
        method.advance(method.num_steps)
        method.finish()
        moved.append(not torch.equal(method.state().inner("router").tensors["weight"], before))
        method.remove()
    assert moved == [False, True]


def test_router_noise_when_drawn_then_touches_training_alone(
    llama: Backbone, artefacts: Artefacts
) -> None:
    batch = batch_of(llama, FIRST + SECOND)
    learned = []
    for noise in (0.0, 2.0):
        method = built(llama, artefacts, router_noise=noise)
        edit(method, batch)
        assert torch.equal(answers(method, batch.tokens), answers(method, batch.tokens))
        learned.append(experts_of(method)["0.outer"])
        method.remove()
    assert not torch.equal(learned[0], learned[1])


def test_load_within_a_batch_when_noise_is_drawn_then_goes_on_with_the_same_noise(
    llama: Backbone, artefacts: Artefacts
) -> None:
    def run(stops: bool) -> Tensor:
        method = built(llama, artefacts, router_noise=1.0, routing_input="anchor")
        method.begin(batch_of(llama, FIRST))
        method.advance(3)
        if stops:
            state = snapshot(method.state())
            method.remove()
            method = MemoeV1(
                replace(CONFIG, router_noise=1.0, routing_input="anchor"),
                llama,
                artefacts,
                trial_generators(9),
            )
            method.load(state)
        method.advance(method.num_steps)
        method.finish()
        experts = experts_of(method)["0.outer"]
        method.remove()
        return experts

    assert torch.equal(run(stops=True), run(stops=False))


def test_memoe_when_bypass_weight_is_zero_then_nothing_is_edited(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, bypass_weight=0.0)
    batch = batch_of(llama, FIRST)
    before = answers(method, batch.tokens)
    edit(method, batch)
    assert torch.equal(answers(method, batch.tokens), before)
    method.remove()
