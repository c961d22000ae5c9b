"""What Tune says of a trial, in the sweep's words."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import LedgerError, UsageError
from orchestrator.running.events import Events, Stop
from orchestrator.running.interruption import Interruption
from orchestrator.running.nodes import MOST_UNFIT, Nodes
from orchestrator.store.rows import MAX_RETRIES


class Heard:
    """A listener that keeps all that it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: list[tuple[Any, ...]] = []
        self._error = error

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)

        def tell(*what: Any, **named: Any) -> None:
            self.told.append((name, *what, *named.values()))
            if self._error is not None:
                raise self._error

        return tell


def trial(key: str, **values: Any) -> Any:
    """As much of a Tune trial as is looked at."""
    plain = {"status": "RUNNING", "num_failures": 0, "error_file": None}
    return SimpleNamespace(config={"trial_key": key}, **{**plain, **values})


def events(listener: Heard, stopped: dict[str, str] | None = None) -> tuple[Events, Any, Nodes]:
    """With the interruption and the nodes that they tell of what ends a sweep."""
    interruption, nodes = Interruption(), Nodes(None)
    scheduler = SimpleNamespace(stopped=stopped or {})
    return Events(listener, scheduler, interruption, nodes), interruption, nodes


def report(made: Events, key: str, **row: Any) -> None:
    made.on_trial_result(1, [], trial(key), {"row": json.dumps({"done": True, **row})})


def failure(interruption: Interruption) -> Exception:
    """What the interruption was told of."""
    with pytest.raises(UsageError) as caught, interruption.deferred():
        raise AssertionError("the block is not entered")
    return caught.value


def test_row_of_a_trial_is_handed_on_and_its_end_is_heard_of() -> None:
    heard = Heard()
    made, interruption, _ = events(heard)
    report(made, "a", status="running", done=False)
    assert made.heard == set()
    report(made, "a", status="finished")
    rows = [{"done": False, "status": "running"}, {"done": True, "status": "finished"}]
    assert heard.told == [("on_result", "a", row) for row in rows]
    assert made.heard == {"a"}
    assert not interruption.is_over


def test_end_of_a_trial_is_news_only_where_the_scheduler_ended_it() -> None:
    heard = Heard()
    made, _, _ = events(heard, {"b": "asha"})
    made.on_trial_complete(1, [], trial("a"))
    made.on_trial_complete(1, [], trial("b"))
    assert heard.told == [("on_stopped", "b", "asha")]
    assert made.heard == {"b"}


@pytest.mark.parametrize(
    ("num_failures", "event"), [(MAX_RETRIES, "on_lost"), (MAX_RETRIES + 1, "on_error")]
)
def test_trial_without_an_actor_is_lost_until_it_was_tried_often_enough(
    tmp_path: Path, num_failures: int, event: str
) -> None:
    heard = Heard()
    made, _, _ = events(heard)
    file = tmp_path / "error.txt"
    file.write_text("Traceback\n\nRayActorError: it died\n")
    made.on_trial_error(1, [], trial("a", num_failures=num_failures, error_file=str(file)))
    made.on_trial_error(1, [], trial("b", num_failures=num_failures))
    reasons = ["RayActorError: it died", "the worker process died"]
    assert heard.told == [(event, key, why) for key, why in zip("ab", reasons, strict=True)]
    assert made.heard == {"a", "b"}


def test_trial_on_an_unfit_node_is_misplaced_also_when_it_died_there() -> None:
    heard = Heard()
    made, interruption, nodes = events(heard)
    report(made, "a", status="unfit", node="id", error="node n: too old")
    made.on_trial_error(1, [], trial("b"))
    assert heard.told == [("on_misplaced", key, "node n: too old") for key in "ab"]
    assert list(nodes.unfit) == ["id"]
    assert made.heard == {"a", "b"}
    assert not interruption.is_over


def test_node_that_was_left_out_before_explains_no_error() -> None:
    heard, nodes = Heard(), Nodes(None)
    nodes.leave_out("id", "node n: too old")
    made = Events(heard, SimpleNamespace(), Interruption(), nodes)
    made.on_trial_error(1, [], trial("a"))
    assert heard.told == [("on_lost", "a", "the worker process died")]


def test_too_many_unfit_nodes_end_the_sweep() -> None:
    made, interruption, _ = events(Heard())
    for number in range(MOST_UNFIT + 1):
        assert not interruption.is_over
        report(made, f"t{number}", status="unfit", node=f"id{number}", error=f"n{number}: too old")
    assert "n0: too old; n1: too old" in str(failure(interruption))


def test_trial_that_cannot_write_into_the_store_ends_the_sweep_and_is_no_result() -> None:
    heard = Heard()
    made, interruption, _ = events(heard)
    report(made, "a", status="unstored", error="No space left on device")
    assert heard.told == []
    assert str(failure(interruption)) == "a trial cannot write: No space left on device"
    assert Stop(interruption).stop_all()


def test_error_of_the_listener_is_not_lost_in_tune_but_ends_the_sweep() -> None:
    made, interruption, _ = events(Heard(LedgerError("cannot append")))
    assert not Stop(interruption).stop_all()
    report(made, "a", status="finished")  # does not raise: Tune would bury it in its own
    assert str(failure(interruption)) == "cannot append"


def test_steps_are_told_with_whether_anything_moved_in_them() -> None:
    heard = Heard()
    made, *_ = events(heard)
    made.on_step_begin(1, [])
    made.on_step_end(1, [])
    made.on_step_begin(2, [])
    made.on_trial_start(2, [], trial("a"))
    made.on_step_end(2, [])
    made.on_experiment_end([])
    assert heard.told == [("on_step", False), ("on_step", True), ("on_step", False)]


def test_disk_that_fails_at_a_step_ends_the_sweep() -> None:
    made, interruption, _ = events(Heard(LedgerError("cannot append")))
    made.on_step_begin(1, [])
    made.on_step_end(1, [])
    assert str(failure(interruption)) == "cannot append"


def test_every_move_of_a_trial_is_counted_and_what_is_due_is_named() -> None:
    made, _, _ = events(Heard())
    trials = [trial("a"), trial("b", status="PENDING"), trial("c")]
    made.on_step_begin(1, trials)
    assert made.num_moves == 0
    made.on_trial_start(1, trials, trials[0])
    made.on_trial_recover(1, trials, trials[0])
    report(made, "a", status="running", done=False)
    made.on_trial_complete(1, trials, trials[0])
    made.on_trial_error(1, trials, trials[2])
    assert made.num_moves == 5
    assert made.due() == "trials: 1 pending, 2 running"
