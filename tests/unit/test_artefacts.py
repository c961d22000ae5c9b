import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from trainables.artefacts import Artefacts, key_of
from trainables.interfaces import State


class Builder:
    """Counts how often it is asked to build."""

    def __init__(self, value: float = 1.0, size: int = 4) -> None:
        self.calls = 0
        self._state = State({"x": torch.full((size,), value)}, {"value": value})

    def __call__(self) -> State:
        self.calls += 1
        return self._state


def test_get_when_asked_twice_then_builds_once_also_in_another_process(tmp_path: Path) -> None:
    build = Builder()
    first = Artefacts(tmp_path).get("covariance", {"layer": 1}, build)
    again = Artefacts(tmp_path).get("covariance", {"layer": 1}, build)
    assert build.calls == 1
    assert torch.equal(first.tensors["x"], again.tensors["x"])
    assert again.values == {"value": 1.0}


def test_get_when_any_input_differs_then_builds_anew(tmp_path: Path) -> None:
    build, store = Builder(), Artefacts(tmp_path)
    for inputs in ({"layer": 1}, {"layer": 2}, {"layer": 1, "dtype": "x"}):
        store.get("covariance", inputs, build)
    assert build.calls == 3
    assert key_of("a", {"x": 1, "y": 2}) == key_of("a", {"y": 2, "x": 1})


def test_get_when_a_stored_file_is_broken_then_builds_it_anew(tmp_path: Path) -> None:
    build = Builder()
    Artefacts(tmp_path).get("covariance", {}, build)
    stored = next(tmp_path.glob("covariance-*/tensors.safetensors"))
    blob = bytearray(stored.read_bytes())
    blob[-1] ^= 1  # still a readable file, with another number in it
    stored.write_bytes(bytes(blob))
    mended = Artefacts(tmp_path).get("covariance", {}, build)
    assert build.calls == 2
    assert torch.equal(mended.tensors["x"], torch.ones(4))


@pytest.mark.parametrize("broken", ['{"sha', "[]", "{}", "null"])
def test_get_when_what_describes_a_file_is_no_longer_json_of_ours_then_builds_it_anew(
    tmp_path: Path, broken: str
) -> None:
    build = Builder()
    Artefacts(tmp_path).get("covariance", {}, build)
    next(tmp_path.glob("covariance-*/meta.json")).write_text(broken)
    Artefacts(tmp_path).get("covariance", {}, build)
    assert build.calls == 2


def test_get_when_a_stored_value_was_changed_then_builds_it_anew(tmp_path: Path) -> None:
    def build() -> State:
        return State(values={"answers": [1, 2, 3]})

    Artefacts(tmp_path).get("answers", {}, build)
    meta = next(tmp_path.glob("answers-*/meta.json"))
    meta.write_text(meta.read_text().replace("[1, 2, 3]", "[1, 2, 4]"))
    assert Artefacts(tmp_path).get("answers", {}, build).values == {"answers": [1, 2, 3]}
    assert "[1, 2, 3]" in meta.read_text()


def test_get_when_over_budget_then_drops_the_least_recently_used(tmp_path: Path) -> None:
    kib = 1024 / 2**30
    store = Artefacts(tmp_path, max_gib=3 * kib)
    for age, name in enumerate("abc"):
        store.get(name, {}, Builder(size=256))  # 1 KiB of floats each, with a header
        meta = next(tmp_path.glob(f"{name}-*/meta.json"))
        os.utime(meta, (age, age))
    left = {path.parent.name[0] for path in tmp_path.glob("*/meta.json")}
    assert "c" in left
    assert "a" not in left


def _ask_in_turn(root: Path, step: int) -> None:
    """Artefacts of which two fit, in an order of its own."""
    store = Artefacts(root, max_gib=3 * 1024 / 2**30, host_gib=0.0)
    for number in range(120):
        store.get("any", {"n": number * step % 11}, Builder(size=256))


def test_get_when_two_processes_drop_and_write_at_once_then_none_of_them_fails(
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for done in [pool.submit(_ask_in_turn, tmp_path, step) for step in (3, 7)]:
            done.result()


def test_get_when_another_process_drops_it_while_it_is_read_then_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Builder()
    Artefacts(tmp_path).get("covariance", {}, build)
    touch = os.utime

    def dropped(path: Path) -> None:
        shutil.rmtree(Path(path).parent)
        touch(path)

    monkeypatch.setattr(os, "utime", dropped)
    assert torch.equal(Artefacts(tmp_path).get("covariance", {}, build).tensors["x"], torch.ones(4))
    assert build.calls == 1


def test_get_when_host_memory_is_over_budget_then_drops_and_reads_again(tmp_path: Path) -> None:
    kib = 1024 / 2**30
    store, builders = Artefacts(tmp_path, host_gib=2 * kib), [Builder(size=256) for _ in "abc"]
    for name, build in zip("abc", builders, strict=True):  # 1 KiB of floats each
        first = store.get(name, {}, build)
        assert store.get(name, {}, build) is first
    again = store.get("a", {}, builders[0])  # dropped, and on disk
    assert torch.equal(again.tensors["x"], builders[0]().tensors["x"])
    assert [build.calls for build in builders] == [2, 1, 1]  # one of them is the line above
    store.free()
    assert store.get("c", {}, builders[2]) is not None
    assert builders[2].calls == 1


def test_get_when_built_then_holds_a_copy_that_the_builder_does_not_share(tmp_path: Path) -> None:
    made = torch.zeros(3)
    held = Artefacts(tmp_path).get("x", {}, lambda: State({"x": made[:2]})).tensors["x"]
    made.fill_(1)
    assert held.tolist() == [0, 0]
    assert held.untyped_storage().nbytes() == 8


def test_keep_when_asked_twice_then_loads_once_for_each_store(tmp_path: Path) -> None:
    first, second, build = Artefacts(tmp_path), Artefacts(tmp_path), Builder()
    assert first.keep("tagger", build) is first.keep("tagger", build)
    assert build.calls == 1
    first.keep("another", build)
    second.keep("tagger", build)  # nothing is written: another process loads its own
    assert build.calls == 3


def test_draft_counts_towards_the_budget_and_goes_when_the_artefact_is_whole(
    tmp_path: Path,
) -> None:
    store = Artefacts(tmp_path, max_gib=3000 / 2**30)
    abandoned, draft = store.draft("network", {"n": 0}), store.draft("network", {"n": 1})
    abandoned.write_bytes(bytes(4000))
    os.utime(abandoned, (0, 0))

    def build() -> State:
        draft.write_bytes(bytes(100))
        return State({"x": torch.ones(4)})

    store.get("network", {"n": 1}, build)
    assert not draft.exists()
    assert not abandoned.exists()
    assert Artefacts(tmp_path).find("network", {"n": 1}) is not None
