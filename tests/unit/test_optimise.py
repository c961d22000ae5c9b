import math

import pytest
import torch
from torch import Tensor, nn

from trainables.errors import EditDiverged
from trainables.interfaces import Edit, EditBatch, PromptBatch, State
from trainables.optimise import (
    BatchRun,
    Optimisation,
    OptimiserSettings,
    TargetRows,
    begun,
    stored_batch,
    target_loss,
)


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


def test_advance_when_all_is_learned_then_stops_before_the_step() -> None:
    x = nn.Parameter(torch.tensor([8.0]))
    loop = Optimisation({"x": x}, lambda: bowl(x), sgd(100), is_learned=lambda: x.item() <= 2.0)
    assert loop.advance(100)
    assert (x.item(), loop.steps_taken, loop.last_loss) == (2.0, 2, 4.0)  # 8, 4, 2


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


def run_on(x: nn.Parameter, **more: dict[str, int]) -> BatchRun:
    """One edit, by four steps that halve `x`."""
    ids = torch.tensor([[5, 6]])
    scored = torch.tensor([[True, False]])
    tokens = PromptBatch(ids, torch.ones_like(ids), torch.tensor([1]), scored)
    batch = EditBatch((Edit("a", "b"),), tokens, torch.tensor([6]))
    return BatchRun(batch, Optimisation({"x": x}, lambda: bowl(x), sgd(4)), **more)


def test_run_when_stored_and_resumed_then_it_reports_as_if_never_stopped() -> None:
    x = nn.Parameter(torch.tensor([8.0]))
    run = run_on(x, counts={"without_subject": 1})
    assert not run.advance(3)
    state = State()
    run.store(state)
    assert sorted(state.values) == ["batch", "counts", "optimisation"]
    batch = stored_batch(state, torch.device("cpu"))
    assert batch is not None
    assert (batch.edits, batch.labels.tolist()) == (run.batch.edits, [6])
    resumed = run_on(x)
    resumed.resume(state)
    assert resumed.advance(9)
    report = resumed.report()
    assert (report.num_edits, report.num_steps) == (1, 4)  # 3 before, 1 of the 9
    assert report.final_loss == 1.0  # of x = 1, after 8, 4, 2
    assert report.counts == {"without_subject": 1}


def test_run_when_nothing_was_counted_then_its_state_says_nothing_and_what_begin_counts_stays() -> (
    None
):
    x = nn.Parameter(torch.tensor([8.0]))
    state = State()
    run_on(x).store(state)
    assert "counts" not in state.values
    resumed = run_on(x, counts={"from_begin": 2})
    resumed.resume(state)
    assert resumed.counts == {"from_begin": 2}


def test_no_batch_under_way_then_none_is_stored_and_asking_for_it_says_so() -> None:
    assert stored_batch(State(), torch.device("cpu")) is None
    assert begun(0) == 0  # whatever it is, it is there
    with pytest.raises(RuntimeError, match=r"begin\(\) comes first"):
        begun(None)


def test_target_loss_counts_rows_alike_whatever_their_length() -> None:
    # two classes with logits (0, ln 3): probabilities 1/4 and 3/4
    logits = torch.tensor([[0.0, math.log(3)]] * 3)
    labels = torch.tensor([0, 0, 1])  # -ln 1/4, -ln 1/4, -ln 3/4
    rows = torch.tensor([0, 0, 1])
    expected = (math.log(4) + math.log(4 / 3)) / 2
    assert target_loss(logits, labels, TargetRows.of(rows)).item() == pytest.approx(expected)
