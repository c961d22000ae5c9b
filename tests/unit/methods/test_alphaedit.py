"""AlphaEdit: the closed form by hand, and that what ordinary text uses stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.golden.test_alphaedit_equations import CONFIG as SETTINGS
from tests.golden.test_alphaedit_equations import EDITS, LATER
from trainables.artefacts import Artefacts
from trainables.assemblies.ordinary_text import Spectrum
from trainables.assemblies.spread_editor import SpreadEditor
from trainables.assemblies.spread_vectors import least_squares_update
from trainables.backbones.hidden_states.covariance import states_above, watched_keys
from trainables.backbones.hidden_states.subject_rows import subject_rows
from trainables.backbones.hidden_states.subject_vectors import keys_and_states
from trainables.errors import ConfigError, DataError
from trainables.interfaces import Backbone, Edit, EditReport
from trainables.methods.alphaedit import alphaedit, free_bases, null_space_update
from trainables.prompts import Row, collate, edit_batch, tokenise
from trainables.seeding import trial_generators
from trainables.states import snapshot

CONFIG = replace(SETTINGS, layers=(1,), v_num_steps=6, v_lr=0.5, null_threshold=1.0, l2_weight=1e-4)


def make(backbone: Backbone, folder: Path, **changes: Any) -> SpreadEditor:
    method = alphaedit(replace(CONFIG, **changes), backbone, Artefacts(folder), trial_generators(0))
    method.prepare([])
    return method


def apply(method: SpreadEditor, backbone: Backbone, *edits: Edit) -> EditReport:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True))
    while not method.advance(4):
        pass
    return method.finish()


def double(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_null_space_update_when_one_direction_is_free_then_along_it_alone() -> None:
    # U = (1, 0), k = (1, 2), r = (6), l2 = .5: (1 + .5) y = 1, and 6 y = 4 along U
    keys, basis = double([1.0], [2.0]), double([1.0], [0.0])
    update = null_space_update(keys, double([6.0]), basis, keys @ keys.T, 0.5)
    torch.testing.assert_close(update, double([4.0, 0.0]))
    # C_prev of the key (1, 0): (1 + 1 + .5) y = 1, and 6 y = 2.4
    earlier = double([1.0, 0.0], [0.0, 0.0])
    update = null_space_update(keys, double([6.0]), basis, keys @ keys.T + earlier, 0.5)
    torch.testing.assert_close(update, double([2.4, 0.0]))


def test_null_space_update_when_all_is_free_then_memits_with_a_multiple_of_the_identity() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    residuals = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    eye = torch.eye(6, dtype=torch.float64)
    for weight in (1e-9, 0.3, 1e12):
        update = null_space_update(keys, residuals, eye, keys @ keys.T, weight)
        expected = least_squares_update(keys, residuals, weight * eye)
        torch.testing.assert_close(update, expected, atol=1e-6, rtol=1e-6)
    light, heavy = (
        null_space_update(keys, residuals, eye, keys @ keys.T, weight) for weight in (1e-9, 1e12)
    )
    torch.testing.assert_close(light @ keys, residuals, atol=1e-6, rtol=0)
    assert float(heavy.abs().max()) < 1e-10


def test_free_bases_then_the_directions_below_the_threshold() -> None:
    vectors = torch.eye(3)[:, [2, 0, 1]]
    spectra = {4: Spectrum(torch.tensor([0.1, 0.5, 2.0]), vectors)}
    assert torch.equal(free_bases(spectra, 1.0)[4], vectors[:, :2])
    assert torch.equal(free_bases(spectra, 0.5)[4], vectors[:, :1])  # below, not at
    with pytest.raises(ConfigError, match=r"null_threshold is 0.1; layer 4 .* lie in \[0.1, 2\]"):
        free_bases(spectra, 0.1)


def outputs_of(backbone: Backbone, layer: int, row: Row) -> Tensor:
    """What the projection of `layer` gives at each token, (T, D)."""
    seen: list[Tensor] = []
    with watched_keys(backbone, [layer], lambda _, keys: seen.append(keys[0])), torch.no_grad():
        states_above(backbone, layer, collate([row], pad_id=0))
        return backbone.model.get_submodule(backbone.down_path(layer))(seen[0])


@pytest.mark.parametrize("protects", [True, False])
def test_text_of_the_second_moments_then_its_outputs_stay_though_the_edits_move(
    protects: bool, llama: Backbone, tmp_path: Path
) -> None:
    passage = "Who wrote The Long Tide?"  # fewer tokens than the FFN is wide: the rest is free
    (tmp_path / "text.txt").write_text(passage)
    threshold = 1e-4 if protects else 1e6
    method = make(
        llama, tmp_path, covariance_text=str(tmp_path / "text.txt"), null_threshold=threshold
    )
    row = tokenise(llama.tokenizer, passage)
    batch = edit_batch(llama.tokenizer, EDITS, end=True)
    rows = subject_rows(llama, batch, (), with_kl=False)
    before, subjects = outputs_of(llama, 1, row), keys_and_states(llama, rows, 1, 1)[1]
    method.begin(batch)
    method.advance(6)
    delta = snapshot(method.state()).tensors["vectors/delta"]
    report = method.finish()
    moved = float((outputs_of(llama, 1, row) - before).abs().max())
    gained = keys_and_states(llama, rows, 1, 1)[1] - subjects
    assert float(delta.norm(dim=1).min()) > 1
    torch.testing.assert_close(gained, delta, atol=2e-2, rtol=0)
    assert (moved < 1e-4) == protects, moved
    free = 1 - len(row.ids) / llama.ffn_size if protects else 1.0
    assert report.numbers == {"null_share": pytest.approx(free)}
    assert report.counts["nothing_protected"] == (not protects)


def test_accumulate_keys_then_earlier_edits_are_moved_less(llama: Backbone, tmp_path: Path) -> None:
    batch = edit_batch(llama.tokenizer, EDITS, end=True)
    rows = subject_rows(llama, batch, (), with_kl=False)
    moved = []
    for accumulate_keys in (False, True):
        method = make(llama, tmp_path, accumulate_keys=accumulate_keys)
        apply(method, llama, *EDITS)
        before = keys_and_states(llama, rows, 1, 1)[1]
        apply(method, llama, *LATER)
        moved.append(float((keys_and_states(llama, rows, 1, 1)[1] - before).norm()))
        assert method.inference_bytes() == 48 * 32 * 4  # the weight alone
        method.remove()
    assert moved[1] < 0.1 * moved[0]


def test_begin_when_not_prepared_then_says_so(llama: Backbone, tmp_path: Path) -> None:
    method = alphaedit(CONFIG, llama, Artefacts(tmp_path), trial_generators(0))
    with pytest.raises(DataError, match="prepare"):
        method.begin(edit_batch(llama.tokenizer, EDITS, end=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": ()}, r"method.layers is \[\]"),
        ({"null_threshold": 0.0}, "method.null_threshold is 0.0"),
        ({"l2_weight": 0}, "method.l2_weight is 0"),
        ({"accumulate_keys": 1}, "method.accumulate_keys is 1; it must be true or false"),
        ({"covariance_text": "/nowhere.txt"}, "method.covariance_text is '/nowhere.txt'"),
    ],
)
def test_config_when_a_value_is_bad_then_names_it(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)
