"""The trainer of the embedded backbone: optimiser, schedule, token boundaries, checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainables.backbones.embedded import facts as trainer
from trainables.backbones.embedded.facts import EncodedRow, Recipe, Row
from trainables.backbones.embedded.newton_schulz import Muon, orthogonalised
from trainables.backbones.loading import load_backbone
from trainables.datasets.facts import made_up
from trainables.errors import ConfigError, DataError

TINY = Recipe(
    num_layers=2,
    hidden_size=32,
    num_heads=2,
    ffn_size=64,
    vocabulary_size=400,
    num_steps=30,
    batch_size=8,
)
ROWS: tuple[Row, ...] = tuple(
    (line.format(name), answer, weight)
    for name, answer, weight in (("Ada Quell", "Bar City", 3.0), ("Ivo Marsh", "Vesper", 1.0))
    for line in ("{} lives in", "Where does {} live?", "Name the home of {}.")
)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 12, 40), (2, 40, 12)])
def test_orthogonalised_moves_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    # below 1 / 3.4445^5 = .002 of the Frobenius norm a value cannot reach 1 in five steps
    assert (values.amin(1) / matrices.norm(dim=(1, 2))).min() > 2e-3
    got = orthogonalised(matrices)
    new_values = torch.linalg.svdvals(got)
    assert new_values.min() > 0.6
    assert new_values.max() < 1.3
    # singular vectors are kept: in their basis the result is diagonal
    inner = left.mT @ got @ right.mT
    off_diagonal = inner - torch.diag_embed(inner.diagonal(dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 1e-3


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_orthogonalised_equals_the_printed_iteration(steps: int) -> None:
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = matrix / matrix.norm()
    for _ in range(steps):
        gram = expected @ expected.T
        expected = (3.4445 * expected) + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    got = orthogonalised(matrix.float()[None], steps)[0]
    assert torch.allclose(got.double(), expected, atol=1e-4)


def test_muon_step_moves_against_the_gradient_and_decays() -> None:
    weight = nn.Parameter(torch.full((1, 1), 2.0))
    muon = Muon([(weight, False)], momentum=0.5, weight_decay=0.25)
    weight.grad = torch.full((1, 1), 8.0)
    muon.step(lr=0.1)
    # A 1 x 1 matrix is divided by its norm: 8 -> 1; the scalar iteration then takes 1 to
    # x5 with x -> 3.4445 x - 4.7750 x^3 + 2.0315 x^5. The weight decays to 2 (1 - .1 * .25) = 1.95.
    value = 1.0
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    assert weight.item() == pytest.approx(1.95 - 0.1 * value, abs=1e-5)
    assert weight.grad is None


def test_muon_step_scales_tall_matrices_by_what_they_compute() -> None:
    # outputs / inputs = 4: the step is sqrt(4) = 2 times that of the same matrix stored transposed
    gradient = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    moves = []
    for is_transposed in (False, True):
        weight = nn.Parameter(torch.zeros(8, 2))
        weight.grad = gradient.clone()
        Muon([(weight, is_transposed)], momentum=0.9, weight_decay=0.0).step(lr=1.0)
        moves.append(weight.detach())
    assert torch.allclose(moves[0], 2 * moves[1], atol=1e-6)


def test_learning_rate_share_rises_holds_and_falls() -> None:
    recipe = replace(TINY, num_steps=100, warmup_share=0.1, decay_share=0.5)
    share = [trainer.learning_rate_share(recipe, step) for step in range(100)]
    assert share[0] == pytest.approx(0.1)  # (0 + 1) / (.1 * 100)
    assert share[9] == share[30] == share[50] == 1.0  # 10 / 10; held; (100 - 50) / 50
    assert share[75] == pytest.approx(0.5)  # (100 - 75) / 50
    assert share[99] == pytest.approx(0.02)  # 1 / 50


@given(st.integers(1, 400), st.floats(0.0, 0.5), st.floats(0.0, 1.0))
def test_learning_rate_share_is_never_idle(steps: int, warmup: float, decay: float) -> None:
    recipe = replace(TINY, num_steps=steps, warmup_share=warmup, decay_share=decay)
    assert all(0 < trainer.learning_rate_share(recipe, step) <= 1 for step in range(steps))


def test_recipe_with_heads_that_do_not_divide_the_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_heads is 3"):
        replace(TINY, num_heads=3)


def test_tokens_of_prompt_and_answer_join_on_every_row_of_the_world() -> None:
    world = made_up.build_world()
    rows = made_up.training_rows(world)
    tokenizer = trainer.train_tokenizer(Recipe(), rows)
    pairs = [(prompt, answer) for prompt, answer, _ in rows]
    encoded, num_cut = trainer.encode(tokenizer, pairs, 56)
    assert num_cut == 0
    for (prompt, answer), row in list(zip(pairs, encoded, strict=True))[::19]:
        assert tuple(tokenizer(prompt)["input_ids"]) == row.ids[: row.prompt_length]
        inside = list(row.ids[row.prompt_length : -1])
        assert tokenizer(f" {answer}", add_special_tokens=False)["input_ids"] == inside
        assert tokenizer.decode(inside) == f" {answer}"
        assert row.ids[0] == tokenizer.bos_token_id
        assert row.ids[-1] == tokenizer.eos_token_id
    # short rows are what makes training affordable
    assert sum(len(row.ids) for row in encoded) / len(encoded) < 13


def test_encode_cuts_the_front_of_a_long_prompt() -> None:
    tokenizer = trainer.train_tokenizer(TINY, ROWS)
    pair = ("Where does Ada Quell live? " * 3 + "Where?", "Bar City")
    (whole,), _ = trainer.encode(tokenizer, [pair], 56)
    limit = len(whole.ids) - 3
    (cut,), num_cut = trainer.encode(tokenizer, [pair], limit)
    assert num_cut == 1
    assert cut.ids == (whole.ids[0], *whole.ids[4:])  # begin token, three tokens gone
    assert cut.prompt_length == whole.prompt_length - 3


def test_encode_cuts_the_end_of_a_long_answer() -> None:
    tokenizer = trainer.train_tokenizer(TINY, ROWS)
    pair = ("Ada Quell lives in", "Bar City " * 9)
    (whole,), _ = trainer.encode(tokenizer, [pair], 56)
    limit = 2 * whole.prompt_length  # the prompt is within its half
    (cut,), num_cut = trainer.encode(tokenizer, [pair], limit)
    assert num_cut == 1
    assert cut.ids == whole.ids[:limit]
    assert cut.prompt_length == whole.prompt_length


def test_batches_draw_rows_in_proportion_to_their_weights() -> None:
    rows = [EncodedRow((1,) * (3 + number), 2) for number in range(3)]
    recipe = replace(TINY, num_steps=10, batch_size=8)
    generator = torch.Generator().manual_seed(0)
    batches = list(trainer._batches(rows, [5.0, 2.0, 1.0], recipe, generator))
    drawn = [index for batch in batches for index in batch]
    assert [len(batch) for batch in batches] == [8] * 10
    # 80 draws at weights 5 : 2 : 1 are 50, 20 and 10, each within one
    assert [drawn.count(index) for index in range(3)] == pytest.approx([50, 20, 10], abs=1)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_train_lowers_the_loss_and_repeats_bit_for_bit(architecture: str, tmp_path: Path) -> None:
    recipe = replace(TINY, architecture=architecture, token_drop=0.1)
    losses: list[float] = []
    torch.manual_seed(1)
    first = trainer.train(recipe, ROWS, tmp_path / "a", lambda *step: losses.append(step[2]))
    torch.manual_seed(2)  # the process's own generator decides nothing
    second = trainer.train(recipe, ROWS, tmp_path / "b")
    assert len(losses) == 30
    assert losses[-1] < 0.5 * losses[0]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (first, second)]
    assert weights[0] == weights[1]
    third = trainer.train(replace(recipe, seed=1), ROWS, tmp_path / "c")
    assert (third / "model.safetensors").read_bytes() != weights[0]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_checkpoint_loads_with_the_same_logits_and_tokens(
    architecture: str, tmp_path: Path
) -> None:
    recipe = replace(TINY, architecture=architecture)
    tokenizer = trainer.train_tokenizer(recipe, ROWS)
    pairs = [(prompt, answer) for prompt, answer, _ in ROWS]
    rows, _ = trainer.encode(tokenizer, pairs, recipe.max_tokens)
    model = trainer.build_model(recipe, tokenizer)
    trainer.fit(model, recipe, rows, [1.0] * len(rows), tokenizer)
    trainer._save(model, tokenizer, tmp_path / "saved", {})
    backbone = load_backbone(tmp_path / "saved")
    again, _ = trainer.encode(backbone.tokenizer, pairs, recipe.max_tokens)
    assert again == rows
    ids = torch.tensor([rows[0].ids])
    with torch.no_grad():
        assert torch.equal(backbone.model(ids).logits, model(ids).logits)
    assert backbone.tokenizer.eos_token_id == backbone.model.config.eos_token_id
    assert backbone.num_layers == 2


def test_exact_matches_agree_with_one_row_at_a_time(tmp_path: Path) -> None:
    out = trainer.train(replace(TINY, num_steps=60), ROWS, tmp_path / "m")
    backbone = load_backbone(out)
    pairs = [*((prompt, answer) for prompt, answer, _ in ROWS), ("Ada Quell lives in", "Vesper")]
    rows, _ = trainer.encode(backbone.tokenizer, pairs, TINY.max_tokens)
    expected = []
    for row in rows:
        with torch.no_grad():
            best = backbone.model(torch.tensor([row.ids])).logits.argmax(-1)[0].tolist()
        answer = list(row.ids[row.prompt_length :])
        expected.append(best[row.prompt_length - 1 : len(row.ids) - 1] == answer)
    assert trainer.recall(out, pairs, TINY.max_tokens) == expected
    assert any(expected)
    assert not expected[-1]  # a false answer


def test_train_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        trainer.train(TINY, (), tmp_path / "m")
