"""COMEBA-HK: its gate by hand, and what the method promises beyond the contract."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.artefacts import Artefacts
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.covariance import states_above, watched_keys
from trainables.errors import ConfigError, DataError
from trainables.interfaces import Backbone, Edit, EditReport
from trainables.methods import memit
from trainables.methods.comeba_hk.hooks import HookLayer, z_scores
from trainables.methods.comeba_hk.method import ComebaHk, Config
from trainables.prompts import Row, collate, edit_batch, tokenise
from trainables.seeding import trial_generators

CONFIG = Config(
    layers=(1, 2),
    v_lr=0.5,
    v_num_steps=6,
    v_weight_decay=1e-3,
    stop_loss=5e-2,
    clamp=4.0,
    kl_weight=0.0625,
    kl_position="last",
    cov_weight=1e-4,
    hook_threshold=2.2,
    contexts=0,
    context_length=4,
    covariance_tokens_per_dim=10,
    covariance_text=None,
)
EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),
)
LATER = (
    (Edit("Who leads Oslo Bay?", "Ivo Marsh", "Oslo Bay"),),
    (Edit("The Long Tide is by", "Ada Quell", "The Long Tide"),),
)
PROMPTS = ("The capital of Fooland is", "Who wrote The Long Tide?", "Ada Quell works for")


def make(backbone: Backbone, folder: Path, **changes: Any) -> ComebaHk:
    config = replace(CONFIG, **changes)
    method = ComebaHk(config, backbone, Artefacts(folder), trial_generators(0))
    method.prepare(())
    return method


def apply(method: Any, backbone: Backbone, *edits: Edit) -> EditReport:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True))
    while not method.advance(4):
        pass
    return method.finish()  # type: ignore[no-any-return]


def thresholds(method: ComebaHk) -> dict[str, float]:
    return dict(method.state().values["thresholds"])  # type: ignore[arg-type]


def set_thresholds(method: ComebaHk, value: float) -> None:
    state = method.state()
    state.values["thresholds"] = dict.fromkeys(thresholds(method), value)
    method.load(state)


def test_z_scores_by_hand() -> None:
    sizes = torch.tensor([[9.0, 1.0, 2.0, 3.0], [4.0, 7.0, 7.0, 7.0], [1.0, 5.0, 8.0, 9.0]])
    mask = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]).bool()
    scores = z_scores(sizes, mask)
    # (1, 2, 3): mean 2, squares 1 + 0 + 1 over 2 - 1 more than one token, so a deviation of 1
    assert scores[0, 1:].tolist() == [-1.0, 0.0, 1.0]
    # off the prompts, of equal sizes and of a single token there is none
    assert scores.isnan().tolist() == [[True, False, False, False], [True] * 4, [True] * 4]
    assert not (scores >= -math.inf)[1:].any()


def test_answered_by_hand() -> None:
    # W_h - W_0 = (3, 0; 4, 0): a token (k, .) is moved by k (3, 4), of length 5 |k|
    hook = HookLayer(torch.tensor([[3.0, 0.0], [4.0, 0.0]]), torch.zeros(2, 2), 1.0)
    keys = torch.tensor([[[1.0, 9.0], [2.0, 9.0], [-3.0, 9.0], [9.0, 9.0]]])
    output = torch.ones(1, 4, 2)
    prompt = torch.tensor([[True, True, True, False]])
    # 5, 10 and 15: z = -1, 0, 1, and only the last is at the threshold
    gated = hook.answered(keys, output, prompt)
    assert gated.tolist() == [[[1.0, 1.0], [1.0, 1.0], [-8.0, -11.0], [1.0, 1.0]]]
    every = hook.answered(keys, output, None)
    assert every.tolist() == [[[4.0, 5.0], [7.0, 9.0], [-8.0, -11.0], [28.0, 37.0]]]


def test_hook_layers_that_equal_the_weights_then_the_backbones_logits_bit_for_bit(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path)
    apply(method, llama, *EDITS)
    rows = [tokenise(llama.tokenizer, prompt, "Bar") for prompt in PROMPTS]
    batch = collate(rows, pad_id=0)
    plain, _ = Split(llama, 1, PrefixCache(), has_batch_state=False).logits(batch)
    assert not torch.allclose(method.logits(batch)[0], plain, atol=1e-3)
    state = method.state()
    for layer in CONFIG.layers:
        state.tensors[f"change/{layer}"] = torch.zeros_like(state.tensors[f"change/{layer}"])
    state.values["thresholds"] = dict.fromkeys(thresholds(method), -1e9)
    method.load(state)
    assert torch.equal(method.logits(batch)[0], plain)


def test_gate_that_every_token_passes_then_memit(llama: Backbone, tmp_path: Path) -> None:
    own = {f.name: getattr(CONFIG, f.name) for f in fields(CONFIG) if f.name != "hook_threshold"}
    other = memit.memit(
        memit.Config(**own, accumulate_keys=True), llama, Artefacts(tmp_path), trial_generators(0)
    )
    other.prepare(())
    apply(other, llama, *EDITS)
    rows = [tokenise(llama.tokenizer, prompt) for prompt in PROMPTS]
    batch = collate(rows, pad_id=0, scores_last=True)
    expected, _ = other.logits(batch)
    other.remove()
    plain, _ = Split(llama, 0, PrefixCache()).logits(batch)

    method = make(llama, tmp_path)
    apply(method, llama, *EDITS)
    state = method.state()
    for name, tensor in state.tensors.items():
        state.tensors[name] = torch.zeros_like(tensor)
    state.values["thresholds"] = dict.fromkeys(thresholds(method), -math.inf)
    method.load(state)  # nothing is written yet, and no threshold can be lowered
    apply(method, llama, *EDITS)
    found, _ = method.logits(batch)
    assert float((expected - plain).abs().max()) > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_thresholds_never_rise_and_each_edited_prompt_has_a_token_that_passes(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path)
    before = dict.fromkeys(map(str, CONFIG.layers), CONFIG.hook_threshold)
    for edits in (EDITS, *LATER):
        report = apply(method, llama, *edits)
        after = thresholds(method)
        assert all(after[layer] <= before[layer] for layer in before)
        assert report.numbers == {"hook_threshold": pytest.approx(sum(after.values()) / 2)}
        batch = edit_batch(llama.tokenizer, edits, end=True).tokens
        keys: dict[int, torch.Tensor] = {}
        with watched_keys(llama, CONFIG.layers, keys.__setitem__):
            states_above(llama, 2, batch)
        for layer, hook in method._hooks.items():
            scores = z_scores(hook.added(keys[layer]).norm(dim=-1), batch.prompt_mask)
            assert bool((scores >= hook.threshold).any(1).all())
        before = after
    assert max(before.values()) < CONFIG.hook_threshold  # each was lowered by some batch


def test_prompt_that_sets_a_threshold_then_stands_clear_of_it(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path)
    apply(method, llama, *EDITS)
    batch = edit_batch(llama.tokenizer, EDITS, end=True).tokens
    keys: dict[int, torch.Tensor] = {}
    with watched_keys(llama, CONFIG.layers, keys.__setitem__):
        states_above(llama, 2, batch)
    lowered = []
    for layer, hook in method._hooks.items():
        scores = z_scores(hook.added(keys[layer]).norm(dim=-1), batch.prompt_mask)
        least = float(scores.nan_to_num(-math.inf).amax(1).amin())
        lowered += [least - hook.threshold] if hook.threshold < CONFIG.hook_threshold else []
    # float32 has 2^-23: no other batch or padding moves z by as much as its root
    assert lowered
    assert lowered == pytest.approx([2**-11.5] * len(lowered), rel=1e-2)


def test_answer_to_a_prompt_does_not_depend_on_what_follows_it(
    llama: Backbone, tmp_path: Path
) -> None:
    method = make(llama, tmp_path)
    apply(method, llama, *EDITS)
    set_thresholds(method, 0.5)
    rows = [tokenise(llama.tokenizer, prompt) for prompt in PROMPTS]
    plain, _ = method.logits(collate(rows, pad_id=0, scores_last=True))
    longer = [
        Row((*row.ids, *extra), len(row.ids))
        for row, extra in zip(rows, [(7, 8, 9), (10,), (11, 12)], strict=True)
    ]
    batch = collate(longer, pad_id=0)
    ends = torch.tensor([0, 3, 4])  # scored positions that predict the first of the added tokens
    torch.testing.assert_close(method.logits(batch)[0][ends], plain, atol=1e-5, rtol=0)


def test_finish_then_the_backbone_is_as_it_was(llama: Backbone, tmp_path: Path) -> None:
    untouched = {key: value.clone() for key, value in llama.model.state_dict().items()}
    method = make(llama, tmp_path)
    apply(method, llama, *EDITS)
    for key, value in llama.model.state_dict().items():
        assert torch.equal(value, untouched[key]), key
    size = llama.ffn_size * llama.hidden_size
    assert method.inference_bytes() == 2 * 4 * size  # the remembered keys answer nothing
    method.remove()
    assert method.inference_bytes() == 0


def test_begin_when_not_prepared_then_says_so(llama: Backbone, tmp_path: Path) -> None:
    method = ComebaHk(CONFIG, llama, Artefacts(tmp_path), trial_generators(0))
    with pytest.raises(DataError, match="prepare"):
        method.begin(edit_batch(llama.tokenizer, EDITS, end=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": ()}, r"method.layers is \[\]"),
        ({"layers": (1, 1)}, "stands there twice"),
        ({"hook_threshold": 0.0}, "method.hook_threshold is 0.0; it must be above 0"),
        ({"cov_weight": 0.0}, "method.cov_weight is 0.0"),
        ({"covariance_text": "/nowhere.txt"}, "method.covariance_text is '/nowhere.txt'"),
    ],
)
def test_config_when_a_value_is_bad_then_names_it(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)


def test_layers_when_the_last_is_among_them_then_refused(llama: Backbone, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allowed: 0 to 2, the last of 4 layers excluded"):
        make(llama, tmp_path, layers=(2, 3))
