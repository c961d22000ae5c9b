"""The pretended GPUs themselves: every mix raises, every wait and every byte is counted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.devices import Devices, pretended

GPU, OTHER, HOST = "cuda:0", "cuda:1", "cpu"
HAND = torch.Generator()


@pytest.fixture
def devices() -> Iterator[Devices]:
    with pretended(num_gpus=2) as made:
        yield made


def in_backward() -> None:
    """The forward pass lies on one GPU, what is added to its gradient on another."""
    x = torch.ones(2, device=GPU, requires_grad=True)
    y = x * 2
    y.register_hook(lambda grad: grad + torch.ones(2, device=OTHER))
    y.sum().backward()


def in_optimiser() -> None:
    weight = nn.Parameter(torch.ones(2, device=GPU))
    optimiser = torch.optim.AdamW([weight], foreach=True)
    weight.sum().backward()
    optimiser.step()
    optimiser.state[weight]["exp_avg"] = torch.ones(2, device=OTHER)
    optimiser.step()


MIXES: dict[str, Callable[[], object]] = {
    "two GPUs": lambda: torch.ones(2, device=GPU) + torch.ones(2, device=OTHER),
    "a GPU with the CPU": lambda: torch.ones(2, device=GPU) * torch.ones(2),
    "numbers of two GPUs": lambda: torch.ones((), device=GPU) * torch.ones((), device=OTHER),
    "a GPU's number with the CPU": lambda: torch.ones(2) * torch.ones((), device=GPU),
    "written on the CPU": lambda: torch.ones(()).add_(torch.ones((), device=GPU)),
    "a product": lambda: torch.ones(2, 2, device=GPU) @ torch.ones(2, 2, device=OTHER),
    "joined": lambda: torch.cat([torch.ones(1, device=GPU), torch.ones(1)]),
    "an embedding": lambda: nn.functional.embedding(torch.tensor([0]), torch.ones(2, 2).cuda()),
    "added by index": lambda: torch.ones(2, device=GPU).index_add(
        0, torch.tensor([0]), torch.ones(1, device=GPU)
    ),
    "an index on another GPU": lambda: torch.ones(2).cuda()[torch.tensor([0], device=OTHER)],
    "a GPU's index for the CPU": lambda: torch.ones(2)[torch.tensor([0], device=GPU)],
    "a value by index": lambda: (
        torch.ones(2).cuda().index_put_((torch.tensor([0]),), torch.ones(1))
    ),
    "in backward": in_backward,
    "in a foreach optimiser": in_optimiser,
    "as a gradient": lambda: setattr(torch.ones(2).cuda(), "grad", torch.ones(2)),
    "a view": lambda: torch.ones(4, device=GPU)[1:3].view(2) + torch.ones(2),
    "a copy": lambda: copy.deepcopy(torch.ones(2, device=GPU)) + torch.ones(2),
    "an empty like it": lambda: torch.zeros_like(torch.ones(2, device=GPU)) + torch.ones(2),
    "the CPU's copy": lambda: torch.ones(2, device=GPU).cpu() + torch.ones(2, device=GPU),
    "another data": lambda: with_data(torch.ones(2, device=GPU)) + torch.ones(2),
}


def with_data(data: Tensor) -> Tensor:
    made = torch.ones(2)
    made.data = data
    return made


@pytest.mark.parametrize("make", MIXES.values(), ids=MIXES)
def test_operation_on_two_devices_raises_and_names_its_line(
    make: Callable[[], object], devices: Devices
) -> None:
    with pytest.raises(RuntimeError, match=r"same device.*at tests/unit/test_devices\.py:\d+"):
        make()
    assert len(devices.mixes) == 1


ALLOWED: dict[str, Callable[[], Tensor]] = {
    "a number of the CPU": lambda: torch.ones(2, device=GPU) * torch.tensor(3.0),
    "a number by index": lambda: (
        torch.ones(2).cuda().index_put_((torch.tensor([0], device=GPU),), torch.tensor(2.0))
    ),
    "an index of the CPU": lambda: torch.ones(2, device=GPU)[torch.tensor([0])],
    "copied into": lambda: torch.ones(2, device=GPU).copy_(torch.ones(2)),
    "moved": lambda: torch.ones(2, device=OTHER).to(GPU) + torch.ones(2, device=GPU),
    "new beside": lambda: torch.ones(2, device=GPU).new_zeros(2) + torch.ones(2, device=GPU),
    "one hot": lambda: nn.functional.one_hot(torch.tensor([1]).cuda(), 2) + torch.ones(2).cuda(),
}


@pytest.mark.parametrize("make", ALLOWED.values(), ids=ALLOWED)
def test_what_cuda_allows_runs_and_lies_on_the_gpu(
    make: Callable[[], Tensor], devices: Devices
) -> None:
    assert make().device == torch.device(GPU)
    assert not devices.mixes


def test_gradient_comes_back_over_two_gpus(devices: Devices) -> None:
    x = torch.tensor([1.0, 2.0], device=GPU, requires_grad=True)
    (x.to(OTHER) ** 2).sum().to(GPU).backward()
    assert x.grad is not None
    assert (x.grad.device, x.grad.tolist()) == (torch.device(GPU), [2.0, 4.0])
    assert devices.copied_bytes("cuda", "cuda") == 8 + 4 + 4 + 8


def test_parameters_on_two_gpus_step_in_groups(devices: Devices) -> None:
    weights = [nn.Parameter(torch.ones(2, device=at)) for at in (GPU, OTHER)]
    optimiser = torch.optim.SGD(weights, lr=0.5, foreach=True)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimiser.step()
    assert [weight.tolist() for weight in weights] == [[0.5, 0.5]] * 2
    assert not devices.mixes


def test_numpy_and_generators_refuse_a_gpu(devices: Devices) -> None:
    x = torch.ones(2, device=GPU)
    for refused in (x.numpy, x.__array__):
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            refused()
    for drawn in (
        lambda: torch.rand(2, device=GPU, generator=HAND),
        lambda: x.normal_(generator=HAND),
        lambda: torch.multinomial(x, 1, generator=HAND),
    ):
        with pytest.raises(RuntimeError, match="generator"):
            drawn()
    assert x.cpu().numpy().tolist() == [1.0, 1.0]


# Each with the waits that it costs; `x` is [0, 1, 2, 3] on a GPU, `mask` its two last.
WAITS: dict[str, tuple[Callable[[Tensor, Tensor], object], int]] = {
    "item": (lambda x, mask: x[0].item(), 1),
    "float, int, bool": (lambda x, mask: (float(x[0]), int(x[1]), bool(x[2])), 3),
    "tolist": (lambda x, mask: x.tolist(), 1),
    "cpu": (lambda x, mask: x.cpu(), 1),
    "to the GPU": (lambda x, mask: torch.ones(2).cuda(), 1),
    "to the GPU, not waited for": (lambda x, mask: torch.ones(2).to(GPU, non_blocking=True), 0),
    "from a list": (lambda x, mask: torch.tensor([1.0], device=GPU), 1),
    "between GPUs": (lambda x, mask: x.to(OTHER), 0),
    "made there": (lambda x, mask: torch.zeros(2, device=GPU) + 1, 0),
    "by a mask": (lambda x, mask: x[mask], 1),
    "by an index": (lambda x, mask: x[torch.ones(1, dtype=torch.long, device=GPU)], 0),
    "by an index of the CPU": (lambda x, mask: x[torch.tensor([0])], 1),
    "a mask set to a number": (lambda x, mask: x.__setitem__(mask, 1.0), 0),
    "a mask set to values": (lambda x, mask: x.__setitem__(mask, x[:2].clone()), 1),
    "where with a number": (lambda x, mask: torch.where(mask, x, 0.0), 0),
    "nonzero": (lambda x, mask: mask.nonzero(), 1),
    "equal": (lambda x, mask: torch.equal(x, x), 1),
    "unique": (lambda x, mask: x.unique(), 1),
    "bincount": (lambda x, mask: torch.bincount(x.long(), minlength=9), 2),
    "repeats": (lambda x, mask: x.repeat_interleave(mask.long()), 1),
    "repeats of known size": (lambda x, mask: x.repeat_interleave(mask.long(), output_size=2), 0),
    "one hot": (lambda x, mask: nn.functional.one_hot(x.long(), 4), 0),
    "solve": (lambda x, mask: torch.linalg.solve(torch.eye(4, device=GPU), x), 1),
    "of the CPU": (lambda x, mask: float(torch.ones(2)[torch.ones(2).bool()].sum()), 0),
}


@pytest.mark.parametrize(("run", "times"), WAITS.values(), ids=WAITS)
def test_waits_of_the_host_are_counted_exactly(
    run: Callable[[Tensor, Tensor], object], times: int, devices: Devices
) -> None:
    x = torch.arange(4.0, device=GPU)
    run(x, x >= 2)
    assert len(devices.syncs) == times
    assert all(sync.line.startswith("tests/unit/test_devices.py:") for sync in devices.syncs)


def test_mask_under_gradients_waits_again_in_backward(devices: Devices) -> None:
    x = torch.arange(4.0, device=GPU, requires_grad=True)
    x[x.detach() >= 2].sum().backward()
    assert len(devices.syncs) == 2
    assert devices.syncs[1].line.endswith(" in IndexBackward0")


def test_bytes_passed_are_counted_by_their_way(devices: Devices) -> None:
    x = torch.ones(3).cuda()  # 12 bytes there
    x.to(OTHER)  # 12 across
    x[:2].cpu()  # 8 back
    x[0].item()  # 4 back
    assert devices.copied_bytes("cpu", "cuda") == 12
    assert devices.copied_bytes("cuda", "cuda") == 12
    assert devices.copied_bytes("cuda", "cpu") == 12


def test_peak_bytes_of_a_computation_are_those_counted_by_hand(devices: Devices) -> None:
    gpu = devices.gpus[0]
    x = torch.zeros(10, device=GPU)  # 40 bytes
    y = x[2:] * 2  # 32 more; a view takes none
    assert (devices.live[gpu], devices.peak[gpu]) == (72, 72)
    y = y + 1  # the new one beside the old one: 104
    assert (devices.live[gpu], devices.peak[gpu]) == (72, 104)
    y.mul_(2)
    del x
    assert (devices.live[gpu], devices.peak[gpu]) == (32, 104)
    devices.reset_peak()
    assert devices.peak[gpu] == torch.cuda.max_memory_allocated() == 32
    del y
    assert devices.live[gpu] == 0


def test_freed_storage_leaves_no_mark_at_its_address(devices: Devices) -> None:
    places = set()
    for _ in range(100):
        torch.ones(1000, device=GPU)
        places.add(torch.ones(1000).device.type)
        places.add(torch.from_numpy(torch.ones(1000).numpy()).device.type)
    assert places == {"cpu"}


def test_module_moves_whole_and_steps_as_on_the_cpu() -> None:
    def trained() -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        model, x = nn.Linear(3, 2), torch.ones(4, 3)
        if torch.cuda.is_available():
            model, x = model.cuda(), x.cuda()
        optimiser = torch.optim.Adam(model.parameters(), foreach=True)
        for _ in range(3):
            optimiser.zero_grad()
            model(x).square().sum().backward()
            optimiser.step()
        return model, model.weight.detach()

    expected = trained()[1]
    with pretended() as devices:
        model, weight = trained()
        assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
        assert torch.equal(weight.cpu(), expected)
        assert not devices.mixes
    assert not torch.cuda.is_available()
