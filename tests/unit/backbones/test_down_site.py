"""The output projection of one layer, against plain hooks on the whole model."""

from __future__ import annotations

import pytest
import torch

from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.hidden_states.down_site import DownScale, DownSite
from trainables.interfaces import Backbone
from trainables.prompts import collate, tokenise

LAYER = 2
PROMPTS = ("The capital of Fooland is", "Who wrote The Long Tide?", "Ada Quell works")


@torch.no_grad()
def test_scale_then_the_medians_of_what_the_whole_model_shows(backbone: Backbone) -> None:
    family = backbone.family
    name = family.norm_after_ffn or family.norm_before_ffn  # it reads what a change stands beside
    if name is None:
        pytest.skip("no norm of this family reads what the FFN's output is added to")
    norm = backbone.model.get_submodule(f"{backbone.layer_path(LAYER)}.{name}")
    down = backbone.model.get_submodule(backbone.down_path(LAYER))
    residuals, powers, ends = [], [], []
    for prompt in PROMPTS:
        seen: dict[torch.nn.Module, torch.Tensor] = {}
        hooks = [
            module.register_forward_pre_hook(
                lambda module, inputs, seen=seen: seen.update({module: inputs[0][0]})
            )
            for module in (norm, down)
        ]
        backbone.model(torch.tensor([tokenise(backbone.tokenizer, prompt).ids]))
        for hook in hooks:
            hook.remove()
        residuals.append(seen[norm].norm(dim=-1).mean())
        powers.append(seen[down].square().sum(-1).mean())
        ends.append(seen[down][-1])
    scale = DownSite(backbone, LAYER, PrefixCache()).scale(PROMPTS)
    assert scale.residual_norm == pytest.approx(float(sorted(residuals)[1]), rel=1e-4)
    assert scale.input_power == pytest.approx(float(sorted(powers)[1]), rel=1e-4)
    last = torch.stack(ends)
    torch.testing.assert_close(scale.centre, last.mean(0), atol=1e-4, rtol=1e-4)
    assert scale.spread == pytest.approx(float((last - last.mean(0)).square().mean().sqrt()))


def test_scale_of_one_prompt_then_its_size_stands_for_the_spread(llama: Backbone) -> None:
    site = DownSite(llama, LAYER, PrefixCache())
    scale = site.scale(PROMPTS[:1])
    row = tokenise(llama.tokenizer, PROMPTS[0])
    last = site.read(collate([row], pad_id=0)).inputs[0, -1]
    assert scale.spread == pytest.approx(float(last.square().mean().sqrt()), rel=1e-5)
    again = DownScale.from_state(scale.state(), torch.device("cpu"))
    assert (again.residual_norm, again.input_power) == (scale.residual_norm, scale.input_power)


@torch.no_grad()
def test_read_then_what_leaves_the_layer_makes_the_same_logits(backbone: Backbone) -> None:
    site = DownSite(backbone, LAYER, PrefixCache())
    rows = [tokenise(backbone.tokenizer, prompt, "Bar") for prompt in PROMPTS]
    prompts = collate(rows, pad_id=0)
    whole, _ = site.split.logits(prompts)
    read = site.read(prompts)
    torch.testing.assert_close(
        site.per_token(lambda each: each, prompts, read.layer), whole, atol=1e-4, rtol=0
    )
    shifted, _ = site.answer(prompts, None, lambda _, output, entering: output + 0.5)
    direct = site.per_token(lambda each: each, prompts, read.layer + 0.5)
    torch.testing.assert_close(shifted, direct, atol=1e-4, rtol=0)
    assert torch.equal(site.split.logits(prompts)[0], whole)  # nothing is left behind
