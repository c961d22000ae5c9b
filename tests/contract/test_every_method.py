"""The seven promises of an edit method, for every file in search_spaces/method/.

A new method needs no test here: its YAML is found, and settings that refer to a real model's size
are made to fit the tiny backbones by the name of the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import save_tiny
from tests.contract.tiny_settings import TINY, TINY_OF
from trainables.artefacts import Artefacts
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.backbones.loading import load_backbone
from trainables.backbones.pristine import Pristine
from trainables.bases import read_method
from trainables.errors import BackboneError
from trainables.interfaces import (
    Backbone,
    DecodeState,
    Edit,
    EditMethod,
    Question,
    TrainingRecord,
)
from trainables.methods import (
    build_config,
    check_family,
    get_method,
    has_routes,
    method_settings,
)
from trainables.metrics.prompt_routes import Routed, TokenRouted
from trainables.moe.entities import Chunker
from trainables.optimise import TargetRows, target_loss
from trainables.prompts import Row, collate, edit_batch, row_index, tokenise
from trainables.seeding import trial_generators
from trainables.states import read_state, snapshot, write_state

FOLDER = Path(__file__).parents[2] / "search_spaces" / "method"
# Without files that say no more than in which batches their base edits a stream.
_OF_BASE = {"name", "base", "presets_from", "batches"}
METHODS = sorted(
    path.stem
    for path in FOLDER.glob("*.yaml")
    if not yaml.safe_load(path.read_text(encoding="utf-8")).keys() <= _OF_BASE
)
# Of these the backbone learns nothing: it has to read an edit's text, which a random one does
# not. unit/methods/test_retrieval.py has one that does.
READERS = ("retrieval",)
EDITS = (
    Edit("The capital of Fooland is", "Bar City", "Fooland", ("Who wrote The Long Tide?",)),
    Edit("Where was Ada Quell born?", "Vesper", "Ada Quell", ("Who wrote The Long Tide?",)),
    Edit("Ada Quell works for", "Lumen Works", "Ada Quell", ("Who wrote The Long Tide?",)),
)
MORE_EDITS = (
    Edit("Who leads Oslo Bay?", "Ivo Marsh", "Oslo Bay"),
    Edit("The Long Tide is by", "Ada Quell", "The Long Tide"),
)
TRAINING = (
    TrainingRecord(
        Edit("Lumen Works was founded in", "Oslo Bay", "Lumen Works", ("Who wrote it?",)),
        ("Where did Lumen Works begin?", "The home of Lumen Works is"),
        (Question("Who wrote it?", "Ada Quell", "locality_far"),),
    ),
    TrainingRecord(
        Edit("Ivo Marsh lives in", "Vesper", "Ivo Marsh", ("Who wrote it?",)),
        ("The home town of Ivo Marsh is",),
        (Question("Who leads Lumen Works?", "Ivo Marsh", "locality_near"),),
    ),
)
PROMPTS = ("The capital of Fooland is", "Who wrote The Long Tide?", "Ada Quell works for")

pytestmark = pytest.mark.parametrize("name", METHODS)


@pytest.fixture
def artefacts(tmp_path: Path, chunker: Chunker) -> Artefacts:
    return with_chunker(tmp_path / "artefacts", chunker)


def with_chunker(folder: Path, chunker: Chunker) -> Artefacts:
    made = Artefacts(folder)
    made.keep("nltk_chunker content", lambda: chunker)
    return made


def make(
    name: str, backbone: Backbone, artefacts: Artefacts, seed: int = 0, **more: Any
) -> EditMethod:
    """A method on a tiny backbone; `more` are settings of those methods that have them."""
    values = read_method(name)
    settings = method_settings(values)
    settings.update({key: value for key, value in TINY.items() if key in settings})
    settings.update(TINY_OF.get(name, {}))
    settings.update({key: value for key, value in more.items() if key in settings})
    module = values.get("module", name)
    config = build_config(module, settings)
    try:
        check_family(module, backbone.family, config)
    except BackboneError as error:  # said before the start of a trial, too
        pytest.skip(str(error))
    method = get_method(module)[1](config, backbone, artefacts, trial_generators(seed))
    method.prepare(TRAINING)
    return method  # type: ignore[no-any-return]


def apply(method: EditMethod, backbone: Backbone, edits: Sequence[Edit]) -> Any:
    method.begin(edit_batch(backbone.tokenizer, edits, end=True))
    while not method.advance(5):
        pass
    return method.finish()


def rows_of(backbone: Backbone) -> list[Row]:
    return [tokenise(backbone.tokenizer, edit.prompt, edit.target_new) for edit in EDITS] + [
        tokenise(backbone.tokenizer, prompt, "Bar") for prompt in PROMPTS[1:]
    ]


@torch.no_grad()
def answers(method: EditMethod, backbone: Backbone) -> torch.Tensor:
    return method.logits(collate(rows_of(backbone), pad_id=0))[0]


@torch.no_grad()
def batch_loss(method: EditMethod, backbone: Backbone) -> float:
    batch = edit_batch(backbone.tokenizer, EDITS, end=True)
    logits, _ = method.logits(batch.tokens)
    return float(target_loss(logits, batch.labels, TargetRows.of(row_index(batch.tokens))))


def test_before_the_first_edit_no_logit_changes(
    name: str, backbone: Backbone, artefacts: Artefacts
) -> None:
    pristine = Split(backbone, 0, PrefixCache())
    with torch.no_grad():
        expected, _ = pristine.logits(collate(rows_of(backbone), pad_id=0))
    method = make(name, backbone, artefacts)
    same_split = Split(backbone, method.first_layer, PrefixCache())
    with torch.no_grad():
        exactly, _ = same_split.logits(collate(rows_of(backbone), pad_id=0))
    assert torch.equal(answers(method, backbone), exactly)
    torch.testing.assert_close(exactly, expected, atol=1e-4, rtol=0)
    method.remove()


def test_editing_a_batch_lowers_its_loss(
    name: str, backbone: Backbone, artefacts: Artefacts, tmp_path: Path
) -> None:
    before, after = losses(name, backbone, artefacts)
    if name == "no_edit":
        assert after == before
        return
    if name in READERS:
        assert after != before
        return
    if name in ("memit", "r_rome"):
        # They solve for vectors, and what the update does to other tokens of a random model may
        # outweigh them: it is the mean over several that falls.
        for seed in (1, 2):
            folder = save_tiny(backbone.family.name, tmp_path / f"{seed}", seed=seed)
            more = losses(name, load_backbone(folder), artefacts)
            before, after = before + more[0], after + more[1]
    assert after < before


def losses(name: str, backbone: Backbone, artefacts: Artefacts) -> tuple[float, float]:
    """The loss of a batch before and after it is applied."""
    method = make(name, backbone, artefacts, layers=[2], v_num_steps=25)
    before = batch_loss(method, backbone)
    report = apply(method, backbone, EDITS)
    after = batch_loss(method, backbone)
    assert report.num_edits == len(EDITS)
    method.remove()
    return before, after


def test_answers_within_a_batch_change_only_where_declared(
    name: str, llama: Backbone, artefacts: Artefacts
) -> None:
    method = make(name, llama, artefacts)
    before = answers(method, llama)
    method.begin(edit_batch(llama.tokenizer, EDITS, end=True))
    method.advance(4)
    assert torch.equal(answers(method, llama), before) == method.changes_in_finish
    method.remove()


def test_remove_restores_the_backbone_bit_for_bit(
    name: str, backbone: Backbone, artefacts: Artefacts
) -> None:
    pristine = Pristine(backbone.model, full_every=1)
    untouched = Split(backbone, 0, PrefixCache())
    batch = collate(rows_of(backbone), pad_id=0)
    with torch.no_grad():
        expected, _ = untouched.logits(batch)
    method = make(name, backbone, artefacts)
    apply(method, backbone, EDITS)
    method.begin(edit_batch(backbone.tokenizer, MORE_EDITS, end=True))
    method.advance(2)
    method.remove()  # in the middle of a batch, with another one committed
    pristine.check()
    with torch.no_grad():
        assert torch.equal(untouched.logits(batch)[0], expected)


@pytest.mark.parametrize("steps_before", [0, 4, 1000])
def test_state_when_loaded_elsewhere_then_goes_on_as_if_never_stopped(
    name: str,
    steps_before: int,
    checkpoints: dict[str, Path],
    artefacts: Artefacts,
    tmp_path: Path,
) -> None:
    def run(stops: bool) -> torch.Tensor:
        backbone = load_backbone(checkpoints["llama"])
        method = make(name, backbone, artefacts)
        apply(method, backbone, MORE_EDITS)
        method.begin(edit_batch(backbone.tokenizer, EDITS, end=True))
        is_done = steps_before > 0 and method.advance(steps_before)
        if stops:
            write_state(tmp_path / "state", method.state())
            backbone = load_backbone(checkpoints["llama"])
            method = make(name, backbone, artefacts, seed=99)  # its generators come from the state
            state = read_state(tmp_path / "state")
            assert state is not None
            method.load(state)
        while not is_done:
            is_done = method.advance(3)
        method.finish()
        return answers(method, backbone)

    torch.testing.assert_close(run(stops=True), run(stops=False), atol=1e-6, rtol=0)


def test_same_seed_gives_the_same_result_also_after_another_trial(
    name: str, backbone: Backbone, artefacts: Artefacts
) -> None:
    def trial(edits: Sequence[Edit], seed: int) -> tuple[Any, torch.Tensor]:
        method = make(name, backbone, artefacts, seed)
        report = apply(method, backbone, edits)
        logits = answers(method, backbone)
        method.remove()
        return report, logits

    torch.manual_seed(1)
    report, logits = trial(EDITS, seed=3)
    trial(MORE_EDITS, seed=4)
    torch.manual_seed(2)  # nobody may draw from the global generator
    again, logits_again = trial(EDITS, seed=3)
    assert again == report
    assert torch.equal(logits, logits_again)


def test_only_declared_parameters_get_gradients(
    name: str, backbone: Backbone, artefacts: Artefacts
) -> None:
    original = dict(backbone.model.named_parameters())
    method = make(name, backbone, artefacts)
    values = {key: value.detach().clone() for key, value in original.items()}
    method.begin(edit_batch(backbone.tokenizer, EDITS, end=True))
    method.advance(2)
    for key, parameter in original.items():
        if parameter.grad is not None or not torch.equal(parameter, values[key]):
            assert parameter.requires_grad, key
            assert key.startswith(f"{backbone.layer_path(method.first_layer)}."), key
    while not method.advance(5):
        pass
    method.finish()
    for key, parameter in backbone.model.named_parameters():
        assert not parameter.requires_grad, key
        assert parameter.grad is None, key
    method.remove()


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_padding_batching_and_caching_change_no_logit(
    name: str, padding_side: Any, backbone: Backbone, artefacts: Artefacts
) -> None:
    method = make(name, backbone, artefacts)
    apply(method, backbone, EDITS)
    rows = rows_of(backbone)
    with torch.no_grad():
        alone = torch.cat([method.logits(collate([row], pad_id=0))[0] for row in rows])
        for _ in range(2):  # the second time all prefix states are cached
            together, _ = method.logits(collate(rows, pad_id=0, padding_side=padding_side))
            torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    method.remove()


def test_rows_taken_in_micro_batches_change_nothing_but_rounding(
    name: str, llama: Backbone, artefacts: Artefacts
) -> None:
    llama.model.double()  # Adam divides by the gradient's size: in float32 rounding would grow
    last, most_rows = llama.model.get_submodule(llama.ffn_path(llama.num_layers - 1)), [0]

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        most_rows[-1] = max(most_rows[-1], len(inputs[0]))

    last.register_forward_pre_hook(count)
    reports, states, logits = [], [], []
    for limit in (None, 2):
        llama.micro_batch.limit = limit
        most_rows.append(0)
        method = make(name, llama, artefacts)
        answers(method, llama)  # what another model answers later passes the backbone now
        reports += [apply(method, llama, edits) for edits in (EDITS, MORE_EDITS)]
        states.append(snapshot(method.state()).tensors)
        logits.append(answers(method, llama))
        method.remove()
    assert most_rows[1] > 2
    # no_edit reads the last layer whole, as if it held a route.
    assert most_rows[2] == (most_rows[1] if name == "no_edit" else 2)
    assert [r.num_steps for r in reports[:2]] == [r.num_steps for r in reports[2:]]
    torch.testing.assert_close(logits[1], logits[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(states[1], states[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_generation_starts_where_teacher_forcing_does(
    name: str, padding_side: Any, backbone: Backbone, artefacts: Artefacts
) -> None:
    method = make(name, backbone, artefacts)
    apply(method, backbone, EDITS)
    rows = [tokenise(backbone.tokenizer, prompt) for prompt in PROMPTS]
    batch = collate(rows, pad_id=0, padding_side=padding_side, scores_last=True)
    with torch.no_grad():
        forced, _ = method.logits(batch)
        started, state = method.logits(batch, DecodeState())
        torch.testing.assert_close(started, forced, atol=1e-4, rtol=0)
        tokens = started.argmax(-1)
        step = collate([Row((token,), 1) for token in tokens.tolist()], pad_id=0, scores_last=True)
        second, _ = method.logits(step, state)
        grown = [
            Row((*row.ids, token), len(row.ids))
            for row, token in zip(rows, tokens.tolist(), strict=True)
        ]
        whole = collate(grown, pad_id=0, scores_last=True)
        expected, _ = method.logits(whole)
        # a generation may also begin behind a part of its answer
        again, state = method.logits(whole, DecodeState())
        tokens = again.argmax(-1)
        step = collate([Row((token,), 1) for token in tokens.tolist()], pad_id=0, scores_last=True)
        third, _ = method.logits(step, state)
        grown = [
            Row((*row.ids, token), row.prompt_length)
            for row, token in zip(grown, tokens.tolist(), strict=True)
        ]
        last, _ = method.logits(collate(grown, pad_id=0, scores_last=True))
    torch.testing.assert_close(second, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(third, last, atol=1e-4, rtol=0)
    method.remove()


def test_route_does_not_depend_on_the_target(
    name: str, llama: Backbone, artefacts: Artefacts
) -> None:
    method = make(name, llama, artefacts)
    apply(method, llama, EDITS)
    assert has_routes(read_method(name).get("module", name)) == isinstance(
        method, Routed | TokenRouted
    )
    if isinstance(method, Routed):
        rows = [tokenise(llama.tokenizer, prompt) for prompt in PROMPTS]
        longer = [
            Row((*row.ids, *extra), len(row.ids))
            for row, extra in zip(rows, [(7, 8, 9), (10,), (11, 12)], strict=True)
        ]
        plain = method.routes(collate(rows, pad_id=0))
        assert torch.equal(method.routes(collate(longer, pad_id=0)), plain)
        assert len(method.trained_routes()) == len(EDITS)
    method.remove()
