"""Texts that one model said are guessed of the next: that decides the cost, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the optional extra 'ability'")

import torch
from lm_eval.api.instance import Instance

from trainables.ability.edited_model import EditedModel
from trainables.artefacts import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.interfaces import Backbone

MOST = 12
PROMPTS = [
    f"Ada Quell {word}" for word in ("works for", "was born", "leads", "wrote", "lives", "is")
]


def asked() -> list[Instance]:
    told = {"until": ["."], "max_gen_toks": MOST}
    return [Instance("generate_until", {}, (prompt, told), n) for n, prompt in enumerate(PROMPTS)]


class Counted:
    """Logits of a backbone that count the calls: of whole rows, and token by token."""

    def __init__(self, backbone: Backbone) -> None:
        self._split = Split(backbone, 0, PrefixCache())
        self.whole = self.decoded = 0

    def __call__(self, prompts: Any, state: Any) -> Any:
        self.whole += state is None
        self.decoded += state is not None
        return self._split.logits(prompts, state)


def said(backbone: Backbone, texts: dict[str, list[int]] | None) -> tuple[list[str], Counted]:
    logits = Counted(backbone)
    return EditedModel(logits, backbone, texts).generate_until(asked()), logits


def test_text_that_another_model_said_then_it_is_read_and_not_generated(llama: Backbone) -> None:
    texts: dict[str, list[int]] = {}
    first, counted = said(llama, texts)
    assert (counted.whole, len(texts)) == (0, len(PROMPTS))
    again, counted = said(llama, texts)
    assert again == first
    assert counted.decoded == 0
    assert counted.whole >= 1


def test_text_of_a_model_that_says_something_else_then_it_is_as_without_a_guess(
    llama: Backbone, fresh: Callable[[str], Backbone]
) -> None:
    texts: dict[str, list[int]] = {}
    said(llama, texts)
    other = fresh("llama")
    with torch.no_grad():
        for parameter in other.model.get_submodule(other.layer_path(2)).parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    expected, _ = said(other, None)
    found, counted = said(other, dict(texts))
    assert found == expected
    assert found != said(llama, None)[0]
    assert counted.decoded > 0


def test_guesses_that_are_seldom_right_then_no_more_is_guessed(llama: Backbone) -> None:
    texts: dict[str, list[int]] = {}
    expected, _ = said(llama, texts)
    wrong = {digest: [(ids[0] + 1) % 200, *ids[1:]] for digest, ids in texts.items()}
    logits = Counted(llama)
    model = EditedModel(logits, llama, wrong)
    found = [model.generate_until([request])[0] for request in asked()]
    assert found == expected
    assert logits.whole == 4
