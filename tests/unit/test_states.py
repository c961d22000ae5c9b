"""States on their way to disk: copied once, written beside the work, read whole or not at all."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
import torch

from tests.end_to_end.commands import own_file_system
from tests.end_to_end.test_full_disk import fill
from trainables import states
from trainables.interfaces import State
from trainables.states import StateWriter, read_state, snapshot, write_state


def some_state() -> State:
    weight = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    tensors = {"weight": weight, "turned": weight.T, "step": torch.tensor(3.0)}
    tensors["half"] = torch.ones(2, dtype=torch.bfloat16)
    return State(tensors, {"steps_taken": 3, "inner": {"losses": [0.5, None]}})


def test_snapshot_when_the_method_goes_on_then_it_stays_what_it_was() -> None:
    state = some_state()
    state.values["owners"] = owners = [0]
    taken = snapshot(state)
    owners.append(1)
    assert taken.values["owners"] == [0]
    with torch.no_grad():
        state.tensors["weight"].zero_()
    assert torch.equal(taken.tensors["weight"], torch.arange(12.0).reshape(3, 4))
    assert torch.equal(taken.tensors["turned"], torch.arange(12.0).reshape(3, 4).T)
    assert not taken.tensors["weight"].requires_grad
    addresses = {tensor.data_ptr() for tensor in taken.tensors.values()}
    assert len(addresses) == len(taken.tensors)  # nothing is shared


def test_write_state_then_read_state_gives_it_back(tmp_path: Path) -> None:
    state = snapshot(some_state())
    write_state(tmp_path / "a" / "state", state)
    read = read_state(tmp_path / "a" / "state")
    assert read is not None
    assert read.values == state.values
    assert read.tensors.keys() == state.tensors.keys()
    for name, tensor in state.tensors.items():
        assert read.tensors[name].dtype == tensor.dtype
        assert torch.equal(read.tensors[name], tensor)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["state"]


def test_state_when_written_and_read_then_is_the_same(tmp_path: Path) -> None:
    state = State({"x": torch.arange(3)}, {"nested": {"list": [1, None, "a"]}})
    outer = State(values={"count": 2})
    outer.nest("inner", state)
    write_state(tmp_path / "s", outer)
    read = read_state(tmp_path / "s")
    assert read is not None
    assert read.values["count"] == 2
    assert read.inner("inner").values == state.values
    assert torch.equal(read.inner("inner").tensors["x"], torch.arange(3))


def test_write_state_when_tensors_share_memory_then_each_is_stored(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    write_state(tmp_path / "state", State({"whole": whole, "again": whole, "part": whole[:2]}))
    read = read_state(tmp_path / "state")
    assert read is not None
    assert [read.tensors[name].tolist() for name in ("whole", "again", "part")] == [
        *([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0], [0.0, 1.0])
    ]


@pytest.mark.parametrize("damage", ["cut", "a bit", "other values", "no file", "empty"])
def test_read_state_when_a_file_is_not_whole_then_there_is_none(
    tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "state"
    write_state(path, snapshot(some_state()))
    content = bytearray(path.read_bytes())
    if damage == "a bit":
        content[-1] ^= 1
    elif damage == "other values":
        content = bytearray(bytes(content).replace(b'steps_taken\\": 3', b'steps_taken\\": 4'))
        assert content != path.read_bytes()
    path.write_bytes(content[:-1] if damage == "cut" else content)
    if damage == "no file":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    assert read_state(path) is None


def test_writer_stores_one_state_at_a_time_while_its_caller_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, path, state = StateWriter(), tmp_path / "state", some_state()
    is_free, written = threading.Event(), list[float]()

    def slow(to: Path, held: State) -> None:
        is_free.wait(10)
        written.append(float(held.tensors["weight"].sum()))
        write_state(to, held)

    monkeypatch.setattr(states, "write_state", slow)
    writer.submit(path, state)
    with torch.no_grad():
        state.tensors["weight"].zero_()  # the next step does not wait
    assert writer.is_busy
    assert not path.exists()
    is_free.set()
    writer.submit(path, state)  # waits for the one before
    writer.wait()
    assert not writer.is_busy
    assert written == [66.0, 0.0]
    read = read_state(path)
    assert read is not None
    assert not read.tensors["weight"].any()


def test_writer_when_a_state_cannot_be_written_at_all_then_its_caller_hears_of_it(
    tmp_path: Path,
) -> None:
    writer = StateWriter()
    writer.submit(tmp_path / "state", State(values={"set": {1}}))  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="not JSON serializable"):
        writer.wait()
    assert writer.settle() is None
    assert not list(tmp_path.iterdir())


def test_writer_when_the_disk_is_full_then_the_next_one_hears_of_it_and_the_last_file_stays(
    tmp_path: Path,
) -> None:
    writer, store = StateWriter(), tmp_path / "store"
    with own_file_system(store, size_mib=4):
        writer.submit(store / "state", some_state())
        writer.wait()
        fill(store / "filler")
        writer.submit(store / "state", State({"weight": torch.zeros(2**20)}))
        with pytest.raises(OSError, match="No space left on device") as full:
            writer.wait()
        assert full.value.errno == errno.ENOSPC
        writer.wait()  # it is told once
        read = read_state(store / "state")
        assert read is not None
        assert read.values == some_state().values
        assert not list(store.glob("*.tmp"))
