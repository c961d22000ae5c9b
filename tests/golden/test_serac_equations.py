"""SERAC's classifier and its mixture against float64 loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.golden import reference_serac as reference
from trainables.assemblies.edit_texts import squared_distances
from trainables.interfaces import DecodeState, Edit, PromptBatch, Question, TrainingRecord
from trainables.methods.serac.mixture import Share, mixed
from trainables.methods.serac.scope import ScopeClassifier, scope_loss, similarity, texts_of
from trainables.prompts import Row, collate

RECORDS = tuple(
    TrainingRecord(Edit(f"edit {n}", "x"), (), (Question(f"far {n}", "y", "locality_far"),))
    for n in range(4)
)


def classifier_of(size: int) -> tuple[ScopeClassifier, list[list[float]], float]:
    """A random one, and its weights as numbers."""
    drawn = torch.Generator().manual_seed(size)
    made = ScopeClassifier(size)
    with torch.no_grad():
        made.projection.add_(torch.randn(size, size, generator=drawn) / size)
        made.log_scale.fill_(-0.7)
    scale = float(made.log_scale.detach().double().exp())
    return made, made.projection.double().tolist(), scale


@pytest.mark.parametrize("size", [2, 7])
def test_similarity_is_that_of_projected_embeddings(size: int) -> None:
    made, projection, scale = classifier_of(size)
    drawn = torch.Generator().manual_seed(1)
    queries, keys = (torch.randn(n, size, generator=drawn) for n in (3, 5))
    with torch.no_grad():
        found = similarity(squared_distances(made(queries), made(keys)))
    for n in range(3):
        for m in range(5):
            one, other = queries[n].double().tolist(), keys[m].double().tolist()
            expected = reference.similarity(projection, scale, one, other)
            assert float(found[n, m]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("size", [3, 8])
def test_scope_loss_is_balanced_cross_entropy_at_the_nearest_edit(size: int) -> None:
    made, projection, scale = classifier_of(size)
    drawn = torch.Generator().manual_seed(2)
    texts = texts_of(RECORDS)
    assert sorted(texts) == sorted([f"{kind} {n}" for kind in ("edit", "far") for n in range(4)])
    embedded = {text: torch.randn(size, generator=drawn) for text in texts}
    found = scope_loss(made, embedded, RECORDS, torch.Generator().manual_seed(0))
    edits, far = (
        [embedded[f"{kind} {n}"].double().tolist() for n in range(4)] for kind in ("edit", "far")
    )
    # Without rephrases each record's own prompt is asked: -log p of it is 0.
    expected = reference.scope_loss(projection, scale, edits, edits, far)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)


def test_scope_loss_asks_rephrases_and_leaves_other_records_of_the_same_prompt_out() -> None:
    made, projection, scale = classifier_of(3)
    twins = tuple(
        TrainingRecord(Edit(prompt, target), (rephrase,), (Question("far", "y", "locality_far"),))
        for prompt, target, rephrase in (("a", "1", "A"), ("a", "2", "A"), ("b", "3", "B"))
    )
    drawn = torch.Generator().manual_seed(3)
    embedded = {text: torch.randn(3, generator=drawn) for text in texts_of(twins)}
    a, b, far = (embedded[text].double().tolist() for text in ("a", "b", "far"))
    seen = set()
    for seed in range(20):
        own = torch.Generator().manual_seed(seed)
        found = float(scope_loss(made, embedded, twins, own).detach())
        again = torch.Generator().manual_seed(seed)
        picks = [int(torch.randint(2, (), generator=again)) for _ in range(3)]
        texts = [("aA", "aA", "bB")[n][pick] for n, pick in enumerate(picks)]
        asked = [embedded[text].double().tolist() for text in texts]

        def p(one: list[float], other: list[float]) -> float:
            return reference.similarity(projection, scale, one, other)

        logs = torch.tensor(
            [
                [p(a, asked[0]), p(a, asked[1]), p(b, asked[2])],
                [p(b, asked[0]), p(b, asked[1]), p(a, asked[2])],
                [max(p(a, far), p(b, far))] * 3,
            ],
            dtype=torch.float64,
        )
        outside = (-(1 - logs[1]).log().mean() - (1 - logs[2]).log().mean()) / 2
        assert found == pytest.approx(float(-logs[0].log().mean() + outside), rel=1e-4)
        seen.add(tuple(picks))
    assert len(seen) > 3


def test_mixture_takes_its_share_of_both_and_leaves_other_rows_untouched() -> None:
    # Three rows with 2, 1 and 1 scored positions; each model has logits of its own for all four.
    rows = [Row((1, 2, 3, 4), 2), Row((1, 5, 6), 2), Row((1, 7, 8), 2)]
    prompts = collate(rows, pad_id=0)
    drawn = torch.Generator().manual_seed(4)
    first, second = (torch.randn(4, 6, generator=drawn) for _ in range(2))
    row_of = torch.tensor([0, 0, 1, 2])
    asked: list[list[int]] = []

    def answer(logits: Tensor) -> object:
        def given(
            some: PromptBatch, numbers: Tensor, state: DecodeState | None
        ) -> tuple[Tensor, DecodeState]:
            asked.append(numbers.tolist())
            assert torch.equal(some.input_ids, prompts.input_ids[numbers])
            return logits[torch.isin(row_of, numbers)], DecodeState()

        return given

    share = Share(torch.tensor([0.25, 1.0, 0.0]))
    found, _ = mixed(prompts, share, (answer(first), answer(second)), None)  # type: ignore[arg-type]
    assert asked == [[0, 2], [0, 1]]
    assert torch.equal(found[2], second[2])
    assert torch.equal(found[3], first[3])
    for position in (0, 1):
        expected = reference.mixture(
            first[position].double().tolist(), second[position].double().tolist(), 0.25
        )
        assert found[position].tolist() == pytest.approx(expected, abs=1e-5)
