import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainables.backbones.pristine import Pristine, checksum
from trainables.backbones.surgery import KeptWeights, replace_module
from trainables.errors import RestoreError


def model() -> nn.Module:
    made = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ModuleList([nn.Linear(2, 2)]))
    made.requires_grad_(False)
    return made.eval()


def test_check_when_nothing_changed_then_passes() -> None:
    Pristine(model(), full_every=1).check()


def test_check_when_a_weight_was_changed_and_put_back_from_a_copy_then_passes() -> None:
    edited = model()
    pristine = Pristine(edited)
    kept = KeptWeights(edited, ["0.weight"])
    weight = kept.parameter("0.weight")
    weight.requires_grad_(True)
    with torch.no_grad():
        weight.add_(0.1)
    kept.restore()
    pristine.check()


def test_check_when_a_delta_is_only_subtracted_then_names_the_weight() -> None:
    edited = model()
    pristine = Pristine(edited)
    with torch.no_grad():
        edited[0].weight.add_(1e8).sub_(1e8)  # rounding stays behind
    with pytest.raises(RestoreError, match=r"0\.weight"):
        pristine.check()


def break_data(edited: nn.Module) -> None:
    edited[0].weight.data.view(-1).numpy()[0] += 1  # leaves no mark in the version counter


BREAKS = {
    "a replaced module": lambda m: replace_module(m, "2.0", nn.Linear(2, 2)),
    "an added module": lambda m: m.add_module("extra", nn.Identity()),
    "a hook": lambda m: m[0].register_forward_hook(lambda *_: None),
    "training mode": lambda m: m[0].train(),
    "a gradient flag": lambda m: m[0].weight.requires_grad_(True),
    "a buffer": lambda m: m[1].running_mean.add_(1),
    "a silent write": break_data,
}


@pytest.mark.parametrize("name", BREAKS)
def test_check_when_something_was_left_behind_then_fails(name: str) -> None:
    edited = model()
    pristine = Pristine(edited, full_every=1)
    BREAKS[name](edited)
    with pytest.raises(RestoreError):
        pristine.check()


@given(st.binary(min_size=1, max_size=40), st.integers(0, 10**6), st.integers(1, 255))
def test_checksum_when_any_byte_changes_then_it_changes(
    content: bytes, place: int, change: int
) -> None:
    before = torch.tensor(list(content), dtype=torch.uint8)
    after = before.clone()
    after[place % len(content)] ^= change
    assert checksum(before) == checksum(before.clone())
    assert checksum(before) != checksum(after)


def test_checksum_is_the_sum_of_words_times_odd_numbers() -> None:
    words = torch.tensor([3, -5, 7], dtype=torch.int32)
    content = torch.cat([words.view(torch.uint8), torch.tensor([9], dtype=torch.uint8)])
    assert checksum(content) == 3 * 1 - 5 * 3 + 7 * 5 + 9 * 7
    assert checksum(words[:2].view(torch.uint8)) == 2**64 - 12
    assert checksum(content[1:]) == checksum(content[1:].clone())
    swapped = words[[1, 0, 2]].contiguous().view(torch.uint8)
    assert checksum(swapped) != checksum(words.view(torch.uint8))
