"""Training of side memories on the frozen layer, against the whole model with the weight in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.side_editor import SideEditor, SideSettings
from trainables.interfaces import Backbone, Edit, TrainingRecord
from trainables.moe.augmentation import Augmentation
from trainables.moe.side_memory import random_masks
from trainables.moe.side_plan import BatchPlan, Remembered
from trainables.moe.side_training import LossTerms
from trainables.optimise import TargetRows, target_loss
from trainables.prompts import collate, edit_batch, labels_of, row_index, tokenise

SETTINGS = SideSettings(
    edit_layer=2,
    mask_ratio=0.5,
    activation="linear",
    margin_unit="residual",
    margin_far=0.02,
    margin_edit=3.0,
    margin_gap=1.0,
    margin_weight=2.0,
    augmentation="prefix",
    num_prefixes=2,
    num_locality_rows=2,
    edit_lr=0.1,
    num_steps=3,
    stop_loss=None,
)
EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland", ("Who wrote it?", "Is it so?")),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell", ("Where is Oslo?", "Who is Ivo?")),
)
PLAN = BatchPlan(
    forms=[["Yes. The capital of Fooland is"], ["I am. Where was Ada Quell born?"]],
    unrelated=[["Who wrote it?", "Is it so?"], ["Where is Oslo?"]],
    owners=[1, 0],
    remembered=[Remembered(0, "Ada Quell works for", 2)],
)


def make(backbone: Backbone, folder: Path, settings: SideSettings = SETTINGS) -> SideEditor:
    generator = torch.Generator().manual_seed(0)
    editor = SideEditor(settings, backbone, Artefacts(folder), generator)
    editor.prepare([TrainingRecord(edit) for edit in EDITS])
    for mask in random_masks(3, editor.size, 0.5, generator):
        editor.memories.add(mask)
        noise = torch.randn(mask.shape, generator=generator)
        editor.memories.deltas[-1] = 0.02 * noise * mask
    return editor


def naive_loss(backbone: Backbone, editor: SideEditor, deltas: list[Tensor]) -> Tensor:
    """The same loss with whole forward passes, one row at a time."""
    down = backbone.model.get_submodule(backbone.down_path(2))
    unit = editor.scale.residual_norm

    def run(text: str, target: str, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean likelihood loss of the target, and delta_i of the prompt."""
        row = tokenise(backbone.tokenizer, text, target, end=bool(target))
        tokens = collate([row], pad_id=0)
        shift: list[Tensor] = []

        def hook(_: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            shift.append(inputs[0] @ delta.T)
            return output + shift[-1]

        handle = down.register_forward_hook(hook)
        logits = backbone.model(tokens.input_ids).logits[tokens.scored]
        handle.remove()
        activation = shift[0][0, : row.prompt_length].norm(dim=-1).mean() / unit
        if not target:
            return activation, activation
        return target_loss(logits, labels_of(tokens), TargetRows.of(row_index(tokens))), activation

    likelihoods, near, far, gaps = [], [], [], []
    for index, edit in enumerate(EDITS):
        delta = deltas[PLAN.owners[index]]
        own = [run(text, edit.target_new, delta) for text in (edit.prompt, *PLAN.forms[index])]
        others = [run(text, "", delta)[1] for text in PLAN.unrelated[index]]
        likelihoods += [loss for loss, _ in own]
        near += [(SETTINGS.margin_edit - a).clamp_min(0) for _, a in own]
        far += [(o - SETTINGS.margin_far).clamp_min(0) for o in others]
        gaps += [(SETTINGS.margin_gap - (a - o)).clamp_min(0) for _, a in own for o in others]
    item = PLAN.remembered[0]
    held = run(item.prompt, "", deltas[item.owner])[1].detach()
    trained = run(item.prompt, "", deltas[PLAN.owners[item.edit]])[1]
    behind = (SETTINGS.margin_gap - (held - trained)).clamp_min(0)
    hinges = sum(torch.stack(values).mean() for values in (near, far, gaps)) + behind
    return torch.stack(likelihoods).mean() + SETTINGS.margin_weight * hinges


def test_loss_and_gradient_then_those_of_the_whole_model(
    backbone: Backbone, tmp_path: Path
) -> None:
    editor = make(backbone, tmp_path)
    batch = edit_batch(backbone.tokenizer, EDITS, end=True)
    rows = editor.rows(batch, PLAN)
    training = editor.training(rows, PLAN, LossTerms(SETTINGS.margins, SETTINGS.margin_weight))
    deltas = [delta.clone().requires_grad_() for delta in editor.memories.deltas]
    expected = naive_loss(backbone, editor, deltas)
    expected.backward()
    loss = training.loss()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert sorted(training.parameters) == ["0", "1"]
    for name, parameter in training.parameters.items():
        gradient, mask = deltas[int(name)].grad, editor.memories.masks[int(name)]
        assert gradient is not None
        assert parameter.grad is not None
        size = float(gradient.abs().max())
        torch.testing.assert_close(parameter.grad, gradient * mask, atol=1e-3 * size, rtol=1e-3)


def test_loss_without_the_likelihood_then_the_margins_alone(
    llama: Backbone, tmp_path: Path
) -> None:
    editor = make(llama, tmp_path)
    rows = editor.rows(edit_batch(llama.tokenizer, EDITS, end=True), PLAN)
    weight = SETTINGS.margin_weight
    losses = {
        names: float(
            editor.training(
                rows,
                PLAN,
                LossTerms(SETTINGS.margins, weight, has_likelihood="likelihood" in names),
            )
            .loss()
            .detach()
        )
        for names in ("likelihood and margins", "margins")
    }
    plain = editor.training(rows, PLAN, LossTerms(SETTINGS.margins, 0.0))
    assert losses["margins"] > 0
    assert losses["likelihood and margins"] == pytest.approx(
        losses["margins"] + float(plain.loss().detach()), rel=1e-5
    )


def test_commit_then_only_the_owners_change_and_only_inside_their_masks(
    llama: Backbone, tmp_path: Path
) -> None:
    editor = make(llama, tmp_path)
    before = [delta.clone() for delta in editor.memories.deltas]
    rows = editor.rows(edit_batch(llama.tokenizer, EDITS, end=True), PLAN)
    training = editor.training(rows, PLAN, LossTerms(SETTINGS.margins, 1.0))
    assert editor.optimisation(training).advance(5)
    assert all(map(torch.equal, editor.memories.deltas, before))  # until then nothing
    training.commit()
    for index in (0, 1):
        change = editor.memories.deltas[index] - before[index]
        mask = editor.memories.masks[index]
        assert float(change[mask].abs().min()) > 0
        assert torch.equal(change[~mask], torch.zeros_like(change[~mask]))
    assert torch.equal(editor.memories.deltas[2], before[2])


def test_rate_when_margins_are_residual_then_it_is_in_the_units_of_the_layer(
    llama: Backbone, tmp_path: Path
) -> None:
    editor = make(llama, tmp_path)
    scale = editor.scale
    expected = 0.1 * scale.residual_norm**2 / scale.input_power
    assert editor.sgd_lr == pytest.approx(expected)
    assert editor.numbers() == {
        "residual_norm": scale.residual_norm,
        "input_power": scale.input_power,
        "sgd_lr": editor.sgd_lr,
    }
    absolute = make(llama, tmp_path, replace(SETTINGS, margin_unit="absolute"))
    assert absolute.sgd_lr == 0.1
    assert absolute.memories.measure.unit == 1.0
    assert editor.memories.measure.unit == scale.residual_norm


@pytest.mark.parametrize("augmentation", ["noise", "both"])
def test_plan_batch_then_fall_backs_are_counted(
    llama: Backbone, tmp_path: Path, augmentation: Augmentation
) -> None:
    settings = replace(SETTINGS, augmentation=augmentation, num_locality_rows=3)
    editor = make(llama, tmp_path, settings)
    bare = Edit("Who is it?", "Ivo", "Fooland")
    plan = editor.plan_batch(edit_batch(llama.tokenizer, [EDITS[0], bare], end=True))
    # the first edit brings two of three unrelated prompts, the second none
    assert plan.counts == {"locality_rows_missing": 4, "subject_absent": 1}
    assert sorted(plan.unrelated[0]) == ["Is it so?", "Who wrote it?"]
    assert [len(forms) for forms in plan.forms] == [2, 2]
    assert all(form.endswith(" Who is it?") for form in plan.forms[1])  # prefixes stand in
    unprepared = SideEditor(SETTINGS, llama, Artefacts(tmp_path), torch.Generator())
    counts = unprepared.plan_batch(edit_batch(llama.tokenizer, [EDITS[0]], end=True)).counts
    assert counts == {"scale_from_edits": 1}


def test_scale_when_it_came_from_edits_that_are_forgotten_then_the_next_ones_give_their_own(
    llama: Backbone, tmp_path: Path
) -> None:
    editor = SideEditor(SETTINGS, llama, Artefacts(tmp_path), torch.Generator())
    batches = [edit_batch(llama.tokenizer, [edit], end=True) for edit in EDITS[:2]]
    editor.plan_batch(batches[0])
    first = editor.scale
    editor.forget()
    assert editor.plan_batch(batches[1]).counts == {"scale_from_edits": 1}
    assert editor.scale.input_power != first.input_power


def test_prefixes_then_every_trial_draws_from_the_same_ten(llama: Backbone, tmp_path: Path) -> None:
    drawn: set[str] = set()
    for seed in range(12):
        editor = SideEditor(
            SETTINGS, llama, Artefacts(tmp_path), torch.Generator().manual_seed(seed)
        )
        editor.prepare([TrainingRecord(edit) for edit in EDITS])
        plan = editor.plan_batch(edit_batch(llama.tokenizer, EDITS, end=True))
        for edit, forms in zip(EDITS, plan.forms, strict=True):
            drawn |= {form.removesuffix(f" {edit.prompt}") for form in forms}
    assert len(drawn) == 10  # five openings, two lengths
    assert {prefix.split()[0][0] for prefix in drawn} <= set("IYBQ")
