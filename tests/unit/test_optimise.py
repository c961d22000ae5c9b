import math

import pytest
import torch
from torch import Tensor, nn

from trainables.errors import EditDiverged
from trainables.optimise import Optimisation, OptimiserSettings, target_loss


def bowl(x: nn.Parameter) -> Tensor:
    return (x**2).sum()


def sgd(num_steps: int, stop_loss: float | None = None, lr: float = 0.25) -> OptimiserSettings:
    return OptimiserSettings("sgd", lr, num_steps, stop_loss)


def test_advance_takes_gradient_steps_until_the_budget_is_spent() -> None:
    x = nn.Parameter(torch.tensor([8.0]))
    loop = Optimisation({"x": x}, lambda: bowl(x), sgd(3))
    assert not loop.advance(2)
    assert x.item() == 2.0  # 8 - .25 * 16 = 4, 4 - .25 * 8 = 2
    assert loop.advance(5)
    assert (x.item(), loop.steps_taken) == (1.0, 3)


def test_advance_when_the_loss_is_low_enough_then_stops_before_the_step() -> None:
    x = nn.Parameter(torch.tensor([8.0]))
    loop = Optimisation({"x": x}, lambda: bowl(x), sgd(100, stop_loss=5.0))
    assert loop.advance(100)
    assert (x.item(), loop.steps_taken, loop.last_loss) == (2.0, 2, 4.0)  # 64, 16, 4 < 5


def test_advance_when_the_loss_is_not_finite_then_diverges_with_the_rate() -> None:
    x = nn.Parameter(torch.tensor([1.0]))
    loop = Optimisation({"x": x}, lambda: x.sum() * math.nan, sgd(3, lr=0.125))
    with pytest.raises(EditDiverged, match=r"nan after 0 steps \(edit_lr=0.125\)"):
        loop.advance(1)


def test_after_step_is_applied_after_every_step() -> None:
    x = nn.Parameter(torch.tensor([8.0]))

    def box() -> None:
        with torch.no_grad():
            x.clamp_(min=7.0)

    Optimisation({"x": x}, lambda: bowl(x), sgd(4), after_step=box).advance(4)
    assert x.item() == 7.0


def test_rate_when_it_warms_up_then_rises_evenly_and_falls_as_a_cosine() -> None:
    settings = OptimiserSettings("sgd", 4.0, 8, schedule="cosine", warmup_share=0.25)
    # 2 of 8 steps rise to 4; of the other 6 the first is at cos 0, the fourth at cos(pi / 2)
    assert [settings.rate(step) for step in (0, 1, 2, 5)] == pytest.approx([2.0, 4.0, 4.0, 2.0])
    # (1 + cos(5 pi / 6)) / 2 * 4 = 2 - sqrt(3)
    assert settings.rate(7) == pytest.approx(2 - math.sqrt(3))


def test_advance_when_scheduled_then_each_step_takes_its_own_rate_also_after_a_load() -> None:
    settings = OptimiserSettings("sgd", 1.0, 4, schedule="cosine", warmup_share=0.5)
    # a slope of 1 moves x by the rate: 1/2, 1, then (1 + cos 0) / 2 and (1 + cos(pi / 2)) / 2
    first = nn.Parameter(torch.tensor([0.0]))
    loop = Optimisation({"x": first}, lambda: first.sum(), settings)
    loop.advance(3)
    assert first.item() == pytest.approx(-2.5)
    second = nn.Parameter(first.detach().clone())
    resumed = Optimisation({"x": second}, lambda: second.sum(), settings)
    resumed.load(loop.state())
    assert resumed.advance(9)
    assert second.item() == pytest.approx(-3.0)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_state_when_loaded_into_a_new_loop_then_goes_on_exactly(name: str, stop: int) -> None:
    settings = OptimiserSettings(name, 0.1, 6, weight_decay=0.01)  # type: ignore[arg-type]
    straight = nn.Parameter(torch.tensor([3.0, -1.0]))
    Optimisation({"x": straight}, lambda: bowl(straight), settings).advance(6)
    first = nn.Parameter(torch.tensor([3.0, -1.0]))
    loop = Optimisation({"x": first}, lambda: bowl(first), settings)
    loop.advance(stop)
    second = nn.Parameter(first.detach().clone())
    resumed = Optimisation({"x": second}, lambda: bowl(second), settings)
    resumed.load(loop.state())
    assert resumed.advance(10)
    assert torch.equal(second, straight)


def test_target_loss_counts_rows_alike_whatever_their_length() -> None:
    # two classes with logits (0, ln 3): probabilities 1/4 and 3/4
    logits = torch.tensor([[0.0, math.log(3)]] * 3)
    labels = torch.tensor([0, 0, 1])  # -ln 1/4, -ln 1/4, -ln 3/4
    rows = torch.tensor([0, 0, 1])
    expected = (math.log(4) + math.log(4 / 3)) / 2
    assert target_loss(logits, labels, rows).item() == pytest.approx(expected)
