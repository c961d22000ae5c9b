from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_sentences import tiny_encoder
from trainables.artefacts import Artefacts
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.errors import BackboneError, ConfigError
from trainables.interfaces import (
    Backbone,
    DecodeState,
    Edit,
    PromptBatch,
    Question,
    TrainingRecord,
)
from trainables.methods.retrieval import Config, Retrieval
from trainables.optimise import TargetRows, target_loss
from trainables.prompts import Row, collate, edit_batch, row_index, tokenise
from trainables.seeding import trial_generators

EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland"),
    Edit("Who wrote The Long Tide?", "Ada Quell", "The Long Tide"),
)
TRAINING = (
    TrainingRecord(
        Edit("Ada Quell works for", "Lumen Works"),
        ("Who does Ada Quell work for?",),
        (Question("Where was Ivo Marsh born?", "Vesper", "locality_far"),),
    ),
    TrainingRecord(
        Edit("Oslo Bay is in", "Barland"),
        ("Where is Oslo Bay?",),
        (Question("Who wrote it?", "Vesper", "locality_far"),),
    ),
)
CONFIG = Config(encoder="backbone", threshold=0.99, template="{prompt} {target}.\n")


@pytest.fixture
def artefacts(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path / "artefacts")


def built(backbone: Backbone, artefacts: Artefacts, **changes: Any) -> Retrieval:
    method = Retrieval(replace(CONFIG, **changes), backbone, artefacts, trial_generators(0))
    method.prepare(TRAINING)
    return method


def edit(method: Retrieval, backbone: Backbone, *edits: Edit) -> dict[str, float]:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True))
    method.advance(1)
    return dict(method.finish().numbers)


def batch_of(backbone: Backbone, side: Any = "right") -> PromptBatch:
    """Both edits' prompts with targets of different lengths, and a prompt of neither."""
    texts = (
        (EDITS[0].prompt, "Bar City"),
        (EDITS[1].prompt, "Ada"),
        ("Ivo Marsh lives in", "Oslo"),
    )
    rows = [tokenise(backbone.tokenizer, *text) for text in texts]
    return collate(rows, pad_id=0, padding_side=side)


@torch.no_grad()
def plainly(backbone: Backbone, rows: list[Row]) -> Tensor:
    """Logits of the backbone for rows, one by one."""
    split = Split(backbone, 0, PrefixCache())
    return torch.cat([split.logits(collate([row], pad_id=0))[0] for row in rows])


@pytest.mark.parametrize("side", ["left", "right"])
def test_edit_s_text_stands_before_the_prompts_that_are_about_it_and_no_other(
    side: str, llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts)
    edit(method, llama, *EDITS)
    prompts = batch_of(llama, side)
    assert method.routes(prompts).tolist() == [0, 1, -1]
    encode = llama.tokenizer
    first = encode("The capital of Fooland is Bar City.\n").input_ids
    second = encode("Who wrote The Long Tide? Ada Quell.\n").input_ids
    assert first[0] == second[0] == encode.bos_token_id
    own = [tokenise(encode, *t) for t in ((EDITS[0].prompt, "Bar City"), (EDITS[1].prompt, "Ada"))]
    expected = [
        Row((*text, *row.ids[1:]), row.prompt_length - 1 + len(text))  # one begin token, in front
        for text, row in zip((first, second), own, strict=True)
    ]
    unedited = tokenise(encode, "Ivo Marsh lives in", "Oslo")
    with torch.no_grad():
        found, _ = method.logits(prompts)
    torch.testing.assert_close(found, plainly(llama, [*expected, unedited]), atol=1e-4, rtol=0)
    method.remove()
    with torch.no_grad():
        found, _ = method.logits(prompts)
    torch.testing.assert_close(found, plainly(llama, [*own, unedited]), atol=1e-4, rtol=0)


def test_later_edit_of_a_prompt_takes_the_place_of_the_earlier_one(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts)
    edit(method, llama, *EDITS)
    edit(method, llama, replace(EDITS[0], target_new="Vesper"))
    prompts = batch_of(llama)
    assert method.routes(prompts).tolist() == [2, 1, -1]
    assert method.trained_routes() == [2, 1, 2]
    alone = built(llama, artefacts)
    edit(alone, llama, replace(EDITS[0], target_new="Vesper"), EDITS[1])
    with torch.no_grad():
        assert torch.equal(method.logits(prompts)[0], alone.logits(prompts)[0])


def test_threshold_when_null_then_chosen_on_training_records_and_stored_with_the_centre(
    llama: Backbone, artefacts: Artefacts
) -> None:
    method = built(llama, artefacts, threshold=None)
    (value,) = edit(method, llama, *EDITS).values()

    def mean(text: str) -> Tensor:
        ids = torch.tensor(tokenise(llama.tokenizer, text).ids)
        return llama.embedding.weight[ids].double().mean(0)

    centre = (mean(TRAINING[0].edit.prompt) + mean(TRAINING[1].edit.prompt)) / 2

    def cosine(one: str, other: str) -> float:
        a, b = mean(one) - centre, mean(other) - centre
        return float(a @ b / a.norm() / b.norm())

    keys = [record.edit.prompt for record in TRAINING]
    near = [cosine(record.rephrases[0], record.edit.prompt) for record in TRAINING]
    far = [max(cosine(r.unrelated[0].prompt, key) for key in keys) for r in TRAINING]
    other = cosine(*keys)  # of two edits, the same for both; opposite, as the centre is between
    assert other == pytest.approx(-1.0)

    def score(threshold: float) -> float:
        own = float(threshold <= 1.0)
        kept = sum(each >= threshold for each in near) / 2
        below = sum(each < threshold for each in far) / 2
        return (own + kept) / 2 + (below + (other < threshold)) / 2

    best = max(score(step / 1000) for step in range(-1000, 1001))
    assert score(value) == pytest.approx(best)
    again = built(llama, Artefacts(artefacts.cache / "artefacts"), threshold=None)
    again.load(method.state())
    assert torch.equal(again.routes(batch_of(llama)), method.routes(batch_of(llama)))


def test_sentences_when_they_are_read_then_the_nearest_of_them_is_shown(
    llama: Backbone, artefacts: Artefacts, tmp_path: Path
) -> None:
    encoder = tiny_encoder(tmp_path)
    artefacts.keep("sentence_encoder", lambda: encoder)
    asked = ["The capital of Barland is", "Who wrote The Long Bay?", "Oslo"]
    rows = [tokenise(llama.tokenizer, text, "Oslo") for text in asked]
    cosines = encoder.embed(asked) @ encoder.embed([each.prompt for each in EDITS]).T
    for threshold in (-1.0, float(cosines.max(1).values.sort().values[1]), 1.0):
        method = built(llama, artefacts, encoder="sentence", threshold=threshold)
        edit(method, llama, *EDITS)
        best = cosines.max(1)
        expected = torch.where(best.values >= threshold - 1e-6, best.indices, -1)
        assert torch.equal(method.routes(collate(rows, pad_id=0)), expected)
    assert expected.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "bert"}, "method.encoder is 'bert'; allowed: sentence, backbone"),
        ({"threshold": 1.5}, r"method.threshold is 1.5; it must lie in \[-1, 1\] or null"),
        ({"template": "{prompt}\n"}, r"method.template is '{prompt}\\n'; it must hold {target}"),
        ({"template": "So {target}"}, "it must hold {prompt}"),
    ],
)
def test_config_when_a_value_does_not_fit_then_names_key_and_range(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **changes)


def test_prepare_when_a_threshold_has_no_examples_then_says_what_to_give(
    llama: Backbone, artefacts: Artefacts
) -> None:
    changed = replace(CONFIG, threshold=None)
    method = Retrieval(changed, llama, artefacts, trial_generators(0))
    with pytest.raises(ConfigError, match=r"method.threshold is null: .* give one in \[-1, 1\]"):
        method.prepare(())
    Retrieval(CONFIG, llama, artefacts, trial_generators(0)).prepare(())


def test_row_that_its_text_makes_too_long_is_refused(llama: Backbone, artefacts: Artefacts) -> None:
    method = built(llama, artefacts)
    edit(method, llama, replace(EDITS[0], target_new="Bar City " * 20))  # of 64 positions
    with pytest.raises(BackboneError, match="with an edit's text in front, is longer than the 64"):
        method.logits(batch_of(llama))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_generation_that_its_text_takes_beyond_the_positions_is_refused(
    family: str, fresh: Any, artefacts: Artefacts
) -> None:
    backbone = fresh(family)
    method = built(backbone, artefacts)
    edit(method, backbone, EDITS[0])
    rows = [tokenise(backbone.tokenizer, EDITS[0].prompt)]
    prompts = collate(rows, pad_id=0, scores_last=True)
    state = DecodeState()
    logits, state = method.logits(prompts, state)
    assert state.attention_mask is not None
    left = 64 - state.attention_mask.shape[1]  # the last token is one that fills the positions
    assert left > 0
    ones = torch.ones(1, 1, dtype=torch.long)
    for _ in range(left):
        token = logits.argmax(-1)[:, None]
        logits, state = method.logits(PromptBatch(token, ones, ones[0], ones.bool()), state)
    with pytest.raises(BackboneError, match="a row of 65 tokens, with an edit's text in front"):
        method.logits(PromptBatch(token, ones, ones[0], ones.bool()), state)


def test_model_that_reads_its_context_then_knows_the_edit(
    llama: Backbone, artefacts: Artefacts
) -> None:
    """Attention of the first layer hands on the mean of what stands before; nothing else acts."""
    with torch.no_grad():
        for layer in llama.model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        attention = llama.model.model.layers[0].self_attn
        attention.q_proj.weight.zero_()  # looks everywhere alike
        torch.nn.init.eye_(attention.v_proj.weight)  # the first 16 of 32 numbers, in two heads
        for head, place in ((0, 0), (2, 8)):  # of four, two read each half of the 16
            own = slice(8 * head, 8 * head + 8)
            attention.o_proj.weight[place : place + 8, own] = 3.0 * torch.eye(8)
    method = built(llama, artefacts)
    batch = edit_batch(llama.tokenizer, EDITS, end=False)

    @torch.no_grad()
    def loss() -> float:
        logits, _ = method.logits(batch.tokens)
        rows = TargetRows.of(row_index(batch.tokens))
        return float(target_loss(logits, batch.labels, rows))

    before = loss()
    edit(method, llama, *EDITS)
    assert loss() < before - 0.5
