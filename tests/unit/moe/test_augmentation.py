"""Further forms of an edit's prompt."""

from __future__ import annotations

import pytest
import torch

from trainables.interfaces import Edit
from trainables.moe.augmentation import Augmentation, augmented_prompts, noisy_subject, sampled

PREFIXES = ("I am a 4.", "Yes, I know it.", "Q: 1. What is the.")
EDIT = Edit("Who was Ada May Quell's mother?", "Ivy", "Ada May Quell")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_noisy_subject_then_only_ways_that_fit_are_taken() -> None:
    draw = generator()
    by_length: dict[int, set[tuple[int, str, str]]] = {}
    for subject in ("Quell", "Ada Quell", "Ada May Quell"):
        forms = {noisy_subject(subject, draw) for _ in range(60)}
        words = subject.split()
        by_length[len(words)] = {
            (len(f.split()) - len(words), f.split()[0], f.split()[-1]) for f in forms
        }
    # one word: a title of one or two words in front
    assert {change for change, _, _ in by_length[1]} == {1, 2}
    # two words: a title, or one word between them
    assert (1, "Ada", "Quell") in by_length[2]
    assert min(change for change, _, _ in by_length[2]) == 1
    # three words: also without the one in the middle
    assert (-1, "Ada", "Quell") in by_length[3]


def test_prefix_then_it_stands_before_the_prompt() -> None:
    forms = augmented_prompts(EDIT, "prefix", 2, PREFIXES, generator())
    assert len(set(forms)) == 2
    assert {form.removesuffix(f" {EDIT.prompt}") for form in forms} <= set(PREFIXES)
    many = augmented_prompts(EDIT, "prefix", 5, PREFIXES, generator())
    assert len(many) == 5  # more than there are prefixes: some come twice
    assert augmented_prompts(EDIT, "none", 5, PREFIXES, generator()) == []


def test_noise_then_the_subject_alone_changes_and_without_one_a_prefix_stands_in() -> None:
    for form in augmented_prompts(EDIT, "noise", 6, PREFIXES, generator()):
        assert form != EDIT.prompt
        assert form.startswith("Who was ")
        assert form.endswith("'s mother?")
    plain = Edit("Who was it?", "Ivy", "Ada May Quell")
    for form in augmented_prompts(plain, "noise", 2, PREFIXES, generator()):
        assert form.removesuffix(" Who was it?") in PREFIXES


@pytest.mark.parametrize("augmentation", ["noise", "both"])
def test_noise_when_there_are_no_prefixes_then_subjects_alone_change(
    augmentation: Augmentation,
) -> None:
    forms = augmented_prompts(EDIT, augmentation, 6, (), generator())
    assert len(forms) == 6
    assert all(form.startswith("Who was ") and form != EDIT.prompt for form in forms)
    plain = Edit("Who was it?", "Ivy", "Ada May Quell")
    assert augmented_prompts(plain, augmentation, 6, (), generator()) == []


def test_prefix_when_there_are_none_then_there_is_no_further_form() -> None:
    assert augmented_prompts(EDIT, "prefix", 6, (), generator()) == []


def test_both_then_each_row_has_a_prefix_or_noise_or_both() -> None:
    forms = augmented_prompts(EDIT, "both", 60, PREFIXES, generator())
    kinds = {(form.startswith(PREFIXES), EDIT.prompt in form) for form in forms}
    assert kinds == {(True, True), (False, False), (True, False)}


def test_sampled_then_no_item_comes_twice() -> None:
    assert sorted(sampled("abc", 9, generator())) == ["a", "b", "c"]
    assert len(set(sampled("abcdef", 4, generator()))) == 4
