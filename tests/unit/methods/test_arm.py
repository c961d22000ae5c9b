"""ARM beyond the contract: who learns an edit, who answers, and what is left after compression."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.artefacts import Artefacts
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, DecodeState, Edit, EditReport, TrainingRecord
from trainables.methods.arm.method import Arm, Config
from trainables.prompts import collate, edit_batch, tokenise
from trainables.seeding import trial_generators

FAR = ("Who wrote The Long Tide?", "Is it so?", "Ivo Marsh works for", "Where is Oslo Bay?")
QUESTIONS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland", FAR),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell", FAR),
    Edit("Ada Quell works for", "Lumen Works", "Ada Quell", FAR),
)
CONFIG = Config(
    edit_layer=2,
    num_experts=3,
    mask_ratio=0.3,
    masks="random",
    expert_selection="arm",
    selection_threshold=0.0,
    activation="linear",
    margin_unit="residual",
    margin_far=0.15,
    margin_edit=0.6,
    margin_gap=0.3,
    margin_weight=2.0,
    margin_term=True,
    memory_term=True,
    likelihood_term=True,
    memory_size=50,
    augmentation="prefix",
    num_prefixes=1,
    num_locality_rows=4,
    edit_lr=0.2,
    num_steps=10,
    stop_loss=None,
    router_optimiser="adam",
    router_lr=1e-2,
    router_input="down_input",
    inference_routing="projection",
    abstain_threshold=None,
    abstain_ratio=0.88,
    merging="none",
    merge_density=0.5,
)


def make(backbone: Backbone, folder: Path, seed: int = 0, **changes: Any) -> Arm:
    config = replace(CONFIG, **changes)
    method = Arm(config, backbone, Artefacts(folder), trial_generators(seed))
    method.prepare([TrainingRecord(edit) for edit in QUESTIONS])
    return method


def apply(method: Arm, backbone: Backbone, *edits: Edit) -> EditReport:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True))
    while not method.advance(100):
        pass
    return method.finish()


def prompts(backbone: Backbone, *texts: str) -> Any:
    rows = [tokenise(backbone.tokenizer, text, "Bar") for text in texts]
    return collate(rows, pad_id=0)


def experts(method: Arm) -> list[torch.Tensor]:
    return method._editor.memories.deltas


def test_edit_when_a_question_comes_again_then_its_expert_learns_it(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path)
    first = apply(method, llama, QUESTIONS[0])
    assert first.counts == {"new_to_all_experts": 1}
    assert first.numbers["selection_score"] == 0.0  # 0 / 0 before the first edit
    owner = method.trained_routes()[0]
    before = [delta.clone() for delta in experts(method)]
    again = apply(method, llama, replace(QUESTIONS[0], target_new="Vesper"))
    assert again.counts == {}
    assert 0.0 < again.numbers["selection_score"] < 1.0
    assert method.trained_routes() == [owner, owner]
    is_same = [torch.equal(old, new) for old, new in zip(before, experts(method), strict=True)]
    assert is_same == [index != owner for index in range(3)]


def test_edit_when_there_is_no_unrelated_prompt_then_the_expert_is_drawn_and_counted(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path)
    report = apply(method, llama, replace(QUESTIONS[0], training_locality=()))
    assert report.counts == {"locality_rows_missing": 4, "no_selection_score": 1}


@pytest.mark.parametrize(("rule", "owners"), [("cyclic", [0, 1, 2, 0]), ("fixed", [0, 0, 0, 0])])
def test_selection_by_a_fixed_rule_then_activations_do_not_matter(
    rule: str, owners: list[int], llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path, expert_selection=rule, num_steps=2)
    for edit in (*QUESTIONS, QUESTIONS[0]):
        apply(method, llama, edit)
    assert method.trained_routes() == owners


def test_routes_then_edited_prompts_go_to_the_expert_that_learned_them(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path, expert_selection="cyclic", num_steps=30)
    for edit in QUESTIONS:
        apply(method, llama, edit)
    tokens = prompts(llama, *(edit.prompt for edit in QUESTIONS))
    assert method.routes(tokens).tolist() == [0, 1, 2]


@torch.no_grad()
def test_abstain_threshold_when_none_reaches_it_then_the_original_weights_answer(
    backbone: Backbone, tmp_path: Path
) -> None:
    method = make(backbone, tmp_path, abstain_threshold=1e6)
    tokens = prompts(backbone, *(edit.prompt for edit in QUESTIONS))
    before, _ = method.logits(tokens)
    with torch.enable_grad():
        apply(method, backbone, *QUESTIONS)
    assert method.routes(tokens).tolist() == [-1, -1, -1]
    assert torch.equal(method.logits(tokens)[0], before)


@torch.no_grad()
def test_decoding_then_the_route_of_the_prompt_is_kept(llama: Backbone, tmp_path: Path) -> None:
    method = make(llama, tmp_path)
    with torch.enable_grad():
        apply(method, llama, *QUESTIONS)
    row = tokenise(llama.tokenizer, QUESTIONS[1].prompt)
    tokens = collate([row], pad_id=0, scores_last=True)
    _, state = method.logits(tokens, DecodeState())
    assert torch.equal(state.route, method.routes(tokens))
    state.route = torch.tensor([-1])  # what the new token itself says is not asked
    new, _ = method.logits(collate([tokenise(llama.tokenizer, "x")], pad_id=0), state)
    assert len(new) == 0
    assert int(state.route[0]) == -1


def test_merging_then_only_what_inference_uses_changes(llama: Backbone, tmp_path: Path) -> None:
    answers, sizes = {}, {}
    tokens = prompts(llama, *(edit.prompt for edit in QUESTIONS))
    for merging in ("none", "emr", "ties", "dare_ties"):
        method = make(llama, tmp_path, merging=merging, expert_selection="cyclic", num_steps=8)
        for edit in QUESTIONS:
            apply(method, llama, edit)
        with torch.no_grad():
            answers[merging] = method.logits(tokens)[0]
        sizes[merging] = method.inference_bytes()
        deltas = experts(method)
    router = 3 * (48 + 1) * 4  # three experts, the width of the FFN and a bias
    size = 32 * 48
    assert sizes["none"] == pytest.approx(3 * size * 4 + router)
    assert sizes["emr"] == pytest.approx(size * 4 + 3 * size / 8 + 3 * 4 + router)
    assert sizes["ties"] == pytest.approx(size * 4 + router)
    assert all(float(delta.abs().max()) > 0 for delta in deltas)

    def gap(one: str, other: str) -> float:
        return float((answers[one].softmax(-1) - answers[other].softmax(-1)).abs().mean())

    # disjoint in most entries, so EMR gives almost back what went in; TIES cannot
    assert gap("none", "emr") < gap("none", "ties")


def test_emr_of_one_expert_then_it_answers_as_unmerged(llama: Backbone, tmp_path: Path) -> None:
    tokens = prompts(llama, *(edit.prompt for edit in QUESTIONS))
    found = []
    for merging in ("none", "emr"):
        method = make(llama, tmp_path, merging=merging, num_experts=1)
        apply(method, llama, *QUESTIONS)
        with torch.no_grad():
            found.append(method.logits(tokens)[0])
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


def test_memory_term_then_an_edit_of_another_expert_is_held_back(
    llama: Backbone, tmp_path: Path
) -> None:
    def activation(memory_term: bool) -> float:
        """Of the second edit's expert on the first edit's prompt."""
        method = make(llama, tmp_path, memory_term=memory_term, expert_selection="cyclic")
        for edit in QUESTIONS[:2]:
            apply(method, llama, edit)
        read = method._editor.site.read(prompts(llama, QUESTIONS[0].prompt))
        mask = read.tokens.prompt_mask
        return float(method._editor.memories.activations(read.inputs, read.outputs, mask)[0, 1])

    assert activation(memory_term=True) < activation(memory_term=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"inference_routing": "both"},
        {"router_input": "embedding"},
        {"activation": "silu_difference"},
        {"masks": "disjoint"},
        {"inference_routing": "activation", "merging": "slerp"},
    ],
)
def test_options_then_an_edit_still_raises_its_target(
    changes: dict[str, Any], llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path, num_steps=15, **changes)
    batch = edit_batch(llama.tokenizer, QUESTIONS[:1], end=True)
    with torch.no_grad():
        before = method.logits(batch.tokens)[0].log_softmax(-1)[0, batch.labels[0]]
    apply(method, llama, QUESTIONS[0])
    with torch.no_grad():
        after = method.logits(batch.tokens)[0].log_softmax(-1)[0, batch.labels[0]]
    assert float(after) > float(before) + 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_experts": 0}, "method.num_experts is 0; it must be at least 1"),
        ({"mask_ratio": 0.0}, r"method.mask_ratio is 0.0; it must lie in \(0, 1\]"),
        ({"mask_ratio": 0.4, "masks": "disjoint"}, "method.mask_ratio is 0.4; with"),
        ({"selection_threshold": 1.2}, r"method.selection_threshold is 1.2; .* in \[0, 1\]"),
        ({"activation": "inner"}, "method.activation is 'inner'; allowed: linear"),
        ({"merging": "mean"}, "method.merging is 'mean'; allowed: none, emr"),
        ({"expert_selection": "best"}, "method.expert_selection is 'best'"),
        ({"num_locality_rows": -1}, "method.num_locality_rows is -1"),
        ({"router_lr": 0.0}, "method.router_lr is 0.0; it must be above 0"),
        ({"merge_density": 0.0}, "method.merge_density is 0"),
    ],
)
def test_config_when_a_value_is_bad_then_names_it(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)


def test_layer_when_the_backbone_has_no_such_then_names_it(llama: Backbone, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method.edit_layer is 4; allowed: 0 to 3"):
        make(llama, tmp_path, edit_layer=4)
