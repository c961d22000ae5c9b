"""The memory of edits by their texts, and the examples that its threshold is chosen on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from trainables.assemblies.edit_texts import EditTexts
from trainables.assemblies.scope_examples import ScopeExamples, nearness_threshold
from trainables.interfaces import Edit, Question, TrainingRecord

KEYS = torch.eye(3)


def memory_of(*prompts: str) -> EditTexts:
    made = EditTexts(3, torch.device("cpu"))
    made.add([Edit(prompt, str(n)) for n, prompt in enumerate(prompts)], KEYS[: len(prompts)])
    return made


def test_nearest_is_the_edit_of_the_smallest_distance() -> None:
    found = memory_of("a", "b", "c").nearest(torch.tensor([[0.0, 0.8, 0.6], [1.0, 0.0, 0.0]]))
    assert found.index.tolist() == [1, 0]
    # |(0, .8, .6) - (0, 1, 0)|^2 = .04 + .36
    assert found.distance.tolist() == pytest.approx([0.4, 0.0])
    assert found.cosine.tolist() == pytest.approx([0.8, 1.0])
    assert found.within(torch.tensor([False, True])).tolist() == [-1, 0]


def test_without_edits_nothing_is_near() -> None:
    found = EditTexts(3, torch.device("cpu")).nearest(torch.ones(2, 3))
    assert found.index.tolist() == [-1, -1]
    assert found.distance.tolist() == [torch.inf, torch.inf]
    assert found.within(torch.tensor([True, True])).tolist() == [-1, -1]


def test_later_edit_of_a_prompt_counts_whatever_its_key_and_is_restored() -> None:
    memory = memory_of("a", "b")
    # its key is further from the query than that of the edit which it takes the place of
    assert memory.add([Edit("a", "new"), Edit("c", "x")], KEYS[[2, 1]]) == 1
    query = torch.tensor([[1.0, 0.0, 0.5]])
    assert memory.nearest(query).index.tolist() == [2]
    assert memory.latest() == [2, 1, 2, 3]
    again = EditTexts(3, torch.device("cpu"))
    again.load(memory.state())
    assert again.edits == memory.edits == [("a", "0"), ("b", "1"), ("a", "new"), ("c", "x")]
    assert again.nearest(query).index.tolist() == [2]
    # 4 keys of 3 floats, and the letters of prompts and targets
    assert memory.num_bytes == again.num_bytes == 4 * 3 * 4 + 2 + 2 + 4 + 2


def asked(*prompts: str, kind: str = "locality_far") -> tuple[Question, ...]:
    return tuple(Question(prompt, "y", kind) for prompt in prompts)


def test_examples_say_each_text_once_and_call_no_edit_s_own_prompt_unrelated() -> None:
    training = (
        TrainingRecord(Edit("a", "1"), ("A",), asked("far", "b")),
        TrainingRecord(Edit("b", "2"), ("B", "bb"), asked("far", "A")),
        TrainingRecord(Edit("a", "3"), ("again",), asked("other")),
    )
    found = ScopeExamples.of(training, most=9)
    assert found.edits == (("a", "1"), ("b", "2"))
    assert found.rephrases == ((0, "A"), (1, "B"), (1, "bb"))
    assert found.unrelated == (("locality_far", "far"),)
    fewer = ScopeExamples.of(training, most=1)
    assert fewer.edits == (("a", "1"),)
    assert fewer.unrelated == (("locality_far", "far"), ("locality_far", "b"))
    assert found.digest != fewer.digest


def test_nearness_threshold_parts_rephrases_from_what_no_edit_is_about() -> None:
    angles = {"a": 0.0, "A": 0.3, "b": 2.0, "B": 2.2, "far": 1.0}

    def embed(texts: Sequence[str]) -> Tensor:
        turned = torch.tensor([angles[text] for text in texts])
        return torch.stack([turned.cos(), turned.sin()], dim=1)

    training = (
        TrainingRecord(Edit("a", "1"), ("A",), asked("far")),
        TrainingRecord(Edit("b", "2"), ("B",), ()),
    )
    found = nearness_threshold(ScopeExamples.of(training, 9), embed)
    # near: cos .3 and cos .2; far: cos 1 both ways, and cos 2 of the other edit
    expected = (torch.tensor(0.3).cos() + torch.tensor(1.0).cos()) / 2
    assert found == pytest.approx(float(expected), abs=1e-6)
