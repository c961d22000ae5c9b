"""Two processes that share the rows of a batch, joined by gloo."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from tests.contract.test_every_method import (
    EDITS,
    MORE_EDITS,
    answers,
    apply,
    make,
    with_chunker,
)
from tests.contract.test_every_method import METHODS as EVERY_METHOD
from trainables.artefacts import Artefacts
from trainables.backbones.loading import load_backbone
from trainables.interfaces import Backbone, EditMethod
from trainables.moe.entities import Chunker
from trainables.parallel.ranks import Ranks
from trainables.prompts import edit_batch

_WITHOUT_STEPS = ("no_edit", "malmen", "mend", "retrieval", "serac", "ultraedit")  # on an edit
METHODS_THAT_STEP = [name for name in EVERY_METHOD if name not in _WITHOUT_STEPS]
METHODS = (
    *("ft_m", "lemoe", "memoe_v2", "arm", "memit", "lora", "defer", "comeba_hk"),
    *("memoir", "ultraedit"),
)
TIMEOUT_SECONDS = 60.0


def edited(name: str, checkpoint: Path, folder: Path, join: Callable[[], Ranks | None]) -> Any:
    """Answers and state after two batches, and the most rows that entered the last layer."""
    torch.set_num_threads(1)
    backbone = load_backbone(checkpoint, device="cpu")
    backbone.model.double()  # Adam divides by the gradient's size: rounding would grow
    backbone.micro_batch.ranks = join()
    most_rows = 0

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal most_rows
        most_rows = max(most_rows, len(inputs[0]))

    last = backbone.model.get_submodule(backbone.ffn_path(backbone.num_layers - 1))
    method: EditMethod = make(name, backbone, Artefacts(folder))
    with last.register_forward_pre_hook(count):
        for edits in (EDITS, MORE_EDITS):
            apply(method, backbone, edits)
        logits = answers(method, backbone)
    state = {key: value.clone() for key, value in method.state().tensors.items()}
    return {"logits": logits, "state": state, "most_rows": torch.tensor(most_rows)}


def one_rank(rank: int, checkpoint: Path, folder: Path) -> None:
    store = dist.FileStore(str(folder / "meeting"), 2)
    ranks = Ranks(rank, 2, store, TIMEOUT_SECONDS)
    for name in METHODS:
        found = edited(name, checkpoint, folder / "shared", lambda: ranks)
        torch.save(found, folder / f"{name}-{rank}.pt")
    ranks.leave()


@pytest.mark.slow
def test_two_ranks_train_and_answer_as_one_process_does(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    multiprocessing.spawn(one_rank, (checkpoints["llama"], tmp_path), nprocs=2)
    for name in METHODS:
        alone = edited(name, checkpoints["llama"], tmp_path / "alone", lambda: None)
        found = [torch.load(tmp_path / f"{name}-{rank}.pt") for rank in (0, 1)]
        for key, value in found[0]["state"].items():
            assert torch.equal(value, found[1]["state"][key]), (name, key)
        assert found[0]["most_rows"] < alone["most_rows"], name
        for part in ("logits", "state"):
            torch.testing.assert_close(found[0][part], alone[part], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", METHODS_THAT_STEP)
def test_every_method_stops_by_the_loss_of_rank_0(
    name: str,
    llama: Backbone,
    chunker: Chunker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A single rank, which is told a loss of 0 whatever it finds: no method goes by its own."""
    told: list[int] = []

    def broadcast(sent: torch.Tensor, src: int) -> None:
        assert src == 0
        told.append(sent.zero_().numel())

    monkeypatch.setattr(dist, "broadcast", broadcast)
    ranks = Ranks(0, 1, dist.HashStore())
    llama.micro_batch.ranks = ranks
    try:
        method = make(name, llama, with_chunker(tmp_path / "artefacts", chunker))
        method.begin(edit_batch(llama.tokenizer, EDITS, end=True))
        while not method.advance(5):
            pass
        assert method.finish().final_loss == 0.0
        assert told
        method.remove()
    finally:
        llama.micro_batch.ranks = None
        ranks.leave()


def deserted(rank: int, checkpoint: Path, folder: Path, is_silent: bool) -> None:
    backbone: Backbone = load_backbone(checkpoint, device="cpu")
    patience = 3.0 if is_silent else TIMEOUT_SECONDS
    ranks = Ranks(rank, 2, dist.FileStore(str(folder / "meeting"), 2), patience)
    backbone.micro_batch.ranks = ranks
    method = make("ft_m", backbone, Artefacts(folder / str(rank)))
    method.begin(edit_batch(backbone.tokenizer, EDITS, end=True))
    ranks.wait()  # loading may take one longer than the other
    method.advance(1)
    if rank == 1:
        if is_silent:
            time.sleep(4 * patience)  # as where its machine has lost the network
        return  # a process that ends
    begin = time.monotonic()
    with pytest.raises(RuntimeError):
        method.advance(5)
    taken = time.monotonic() - begin
    assert taken < (2 * patience if is_silent else TIMEOUT_SECONDS / 2)


@pytest.mark.slow
@pytest.mark.parametrize("is_silent", [False, True], ids=["dies", "is silent"])
def test_rank_when_another_one_is_lost_then_it_raises_and_does_not_wait(
    tmp_path: Path, checkpoints: dict[str, Path], is_silent: bool
) -> None:
    multiprocessing.spawn(deserted, (checkpoints["llama"], tmp_path, is_silent), nprocs=2)
