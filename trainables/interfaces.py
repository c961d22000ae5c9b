"""What passes between the packages: token batches, the backbone, and the edit protocol.

The records of `records.py` can be imported from here too.

Dimension letters: B prompts, T tokens, D model width, E experts, M scored positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from trainables.parallel.micro_batch import MicroBatch
from trainables.records import Edit as Edit
from trainables.records import EditRecord as EditRecord
from trainables.records import Question as Question
from trainables.records import TrainingRecord as TrainingRecord

Json: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None


@dataclass(frozen=True)
class PromptBatch:
    """Token rows; all that a method sees at inference.

    Attributes:
        input_ids: (B, T) int64, padded on either side.
        attention_mask: (B, T) int64, 1 on real tokens.
        prompt_lengths: (B,) int64, real tokens that belong to the prompt; what follows is a target.
        scored: (B, T) bool, positions whose next-token logits are wanted; M of them in all.
    """

    input_ids: Tensor
    attention_mask: Tensor
    prompt_lengths: Tensor
    scored: Tensor

    @cached_property
    def on_host(self) -> PromptBatch:
        """The same rows in host memory, where positions are counted without waiting for a GPU."""
        if self.input_ids.device.type == "cpu":
            return self
        return PromptBatch(*(tensor.cpu() for tensor in self._tensors()))

    @cached_property
    def scored_at(self) -> tuple[Tensor, Tensor]:
        """Row and column of each scored position, (M,) each, in row-major order."""
        return self._places(self.on_host.scored)

    @cached_property
    def scored_counts(self) -> tuple[int, ...]:
        """Number of scored positions of each row."""
        return tuple(self.on_host.scored.sum(1).tolist())

    @cached_property
    def real_at(self) -> tuple[Tensor, Tensor]:
        """Row and column of each real token, in row-major order."""
        return self._places(self.on_host.attention_mask)

    @cached_property
    def real_ids(self) -> tuple[Tensor, ...]:
        """The real tokens of each row, on the host."""
        host = self.on_host
        counts = host.attention_mask.sum(1).tolist()
        return host.input_ids[host.attention_mask.bool()].split(counts)

    @property
    def position_ids(self) -> Tensor:
        """Index of each real token within its row, (B, T); 0 on padding."""
        return (self.attention_mask.cumsum(1) - 1).clamp_min(0)

    @property
    def prompt_mask(self) -> Tensor:
        """True on prompt tokens, (B, T); targets and padding excluded."""
        is_prompt = self.attention_mask.cumsum(1) <= self.prompt_lengths[:, None]
        return is_prompt & self.attention_mask.bool()

    @property
    def prompt_ends(self) -> Tensor:
        """Column of the last prompt token of each row, (B,)."""
        columns = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        return torch.where(self.prompt_mask, columns, -1).amax(1)

    def to(self, device: torch.device) -> PromptBatch:
        """The same rows on `device`; those on the host are kept beside them, as `on_host`."""
        is_here = self.input_ids.device.type == "cpu"  # then nobody waits for the copy
        moved = PromptBatch(
            *(tensor.to(device, non_blocking=is_here) for tensor in self._tensors())
        )
        if is_here:
            vars(moved)["on_host"] = self
        return moved

    def rows(self, index: Tensor) -> PromptBatch:
        """The rows named by `index`, an integer or boolean tensor over B, best one on the host."""
        if index.device == self.input_ids.device:
            return PromptBatch(*(tensor[index] for tensor in self._tensors()))
        return self.on_host.rows(index.cpu()).to(self.input_ids.device)

    def _places(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of what is not 0 in `chosen` (B, T), which is on the host."""
        device = self.input_ids.device
        rows, columns = (
            each.to(device, non_blocking=True) for each in chosen.nonzero(as_tuple=True)
        )
        return rows, columns

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.input_ids, self.attention_mask, self.prompt_lengths, self.scored


@dataclass(frozen=True)
class EditBatch:
    """Edits applied by one `edit()` call, with their tokens.

    `tokens.scored` marks the positions that predict a target token (end token included when the
    protocol asks for it); `labels` (M,) are those tokens, in row-major order of `scored`.
    """

    edits: tuple[Edit, ...]
    tokens: PromptBatch
    labels: Tensor

    def __len__(self) -> int:
        return len(self.edits)

    def single(self, index: int) -> EditBatch:
        """The batch of edit number `index` alone."""
        return self.part(index, index + 1)

    def part(self, first: int, stop: int) -> EditBatch:
        """The batch of the edits from number `first` on and below `stop`."""
        labels = torch.cat(self.labels.split(self.tokens.scored_counts)[first:stop])
        rows = self.tokens.rows(torch.arange(first, stop))
        return EditBatch(self.edits[first:stop], rows, labels)


@dataclass(frozen=True)
class EditReport:
    """How the editing of one batch went: what it took, and what to report."""

    num_edits: int
    num_steps: int = 0
    final_loss: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)  # stated fall-backs, by name
    numbers: Mapping[str, float] = field(default_factory=dict)  # averaged over batches, by name


@dataclass
class DecodeState:
    """What `logits` needs for the next token; a fresh one starts a generation.

    Passing None instead means whole rows at once (teacher forcing), without a key-value cache.
    """

    cache: Any = None  # transformers.Cache
    attention_mask: Tensor | None = None  # (B, T so far)
    route: Any = None  # decided once on the prompt, kept while decoding


@dataclass
class State:
    """Tensors and JSON only, so that it is stored without pickling."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Json] = field(default_factory=dict)

    def nest(self, name: str, inner: State) -> None:
        """Add `inner` below `name`."""
        self.tensors.update({f"{name}/{key}": value for key, value in inner.tensors.items()})
        self.values[name] = inner.values

    def inner(self, name: str) -> State:
        """The state that `nest` stored below `name`."""
        prefix = f"{name}/"
        tensors = {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}
        values = self.values[name]
        if not isinstance(values, dict):
            raise TypeError(f"{name!r} is a plain value, not a nested state")
        return State(tensors, values)


@dataclass(frozen=True)
class Family:
    """Where one model family keeps its parts; read from `search_spaces/family/<name>.yaml`.

    Paths in the first group start at the model; those in the second at one decoder layer. What the
    FFN puts out is added to the residual stream, beside attention or behind it.
    """

    name: str  # model_type of config.json
    decoder: str  # the module that maps embeddings to final hidden states
    layers: str
    embedding: str
    final_norm: str

    ffn: str
    up: str
    down: str
    activation: str
    attention: tuple[str, ...]  # its modules that hold weights
    query_value: tuple[str, ...]  # those of them that make queries and values, or these and keys
    norms: tuple[str, ...]
    gate: str | None = None  # gated FFNs only; equal to `up`: one weight, the gate's rows first
    norm_before_ffn: str | None = None  # if it reads the very stream that the FFN adds to
    norm_after_ffn: str | None = None  # between the FFN's output and the stream

    is_transposed: bool = False  # True: linear weights are stored (in, out), as GPT-2's Conv1D
    input_only: tuple[str, ...] = ()  # modules of the decoder that act before layer 0
    max_positions: tuple[str, ...] = ()  # keys of config.json, the first that is there
    logit_cap: str | None = None  # key of config.json: c of c * tanh(logits / c), behind the head
    requires: tuple[tuple[str, Json], ...] = ()  # values of config.json, where it has the key

    @property
    def is_fused(self) -> bool:
        """Whether one weight holds gate and up."""
        return self.gate == self.up


@dataclass(frozen=True)
class Backbone:
    """A frozen pretrained model with its tokenizer."""

    model: nn.Module
    tokenizer: Any
    family: Family
    fingerprint: str  # SHA-256 of weights and tokenizer
    num_layers: int
    hidden_size: int
    ffn_size: int
    folder: Path | None = None  # of the checkpoint; None when it came from the hub
    max_positions: int | None = None  # most tokens of a row; None: the family has no such limit
    tf32: bool = False  # whether a GPU rounds the factors of float32 products
    micro_batch: MicroBatch = field(default_factory=MicroBatch, compare=False)  # of this process

    @property
    def device(self) -> torch.device:
        """Device of the input embedding."""
        return self.embedding.weight.device

    @property
    def embedding(self) -> nn.Embedding:
        """Input embedding table, weight (V, D)."""
        module = self.model.get_submodule(self.family.embedding)
        assert isinstance(module, nn.Embedding)
        return module

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all weights."""
        return self.embedding.weight.dtype

    @property
    def identity(self) -> dict[str, Json]:
        """All that decides its answers to the last bit; part of the key of whatever stores some."""
        rounding: dict[str, Json] = {"tf32": True} if self.tf32 else {}
        return {
            "backbone": self.fingerprint,
            "dtype": str(self.dtype),
            "device": self.device.type,
        } | rounding

    @property
    def memory_key(self) -> str:
        """`identity` and the device: the key of tensors that stay where they were made."""
        return f"{self.fingerprint}/{self.dtype}/{self.device}{'/tf32' if self.tf32 else ''}"

    def layer_path(self, layer: int) -> str:
        """Dotted path of decoder layer `layer`, counted from 0."""
        return f"{self.family.layers}.{layer}"

    def ffn_path(self, layer: int) -> str:
        """Dotted path of the feed-forward network of `layer`."""
        return f"{self.layer_path(layer)}.{self.family.ffn}"

    def down_path(self, layer: int) -> str:
        """Dotted path of the FFN output projection of `layer`."""
        return f"{self.layer_path(layer)}.{self.family.down}"


@dataclass(frozen=True)
class Generators:
    """Independent sources of randomness of one trial, all from its seed."""

    init: torch.Generator  # new parameters
    noise: torch.Generator  # routing noise, dropout, masks


@runtime_checkable
class EditMethod(Protocol):
    """An editor; built by `METHOD(config, backbone, artefacts, generators)`."""

    first_layer: int  # lowest decoder layer it reads or changes; 0: nothing can be cached
    num_steps: int  # optimiser steps that one batch may take; 0: closed form or nothing to train
    changes_in_finish: bool  # True: between `begin` and `finish` answers stay as they were

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Build what does not depend on the edits (covariances, networks), through artefacts.

        Args:
            training: Records of another part than what is scored; see `draws.training`.
        """
        ...

    def begin(self, batch: EditBatch) -> None:
        """Attach what the batch needs and set up its optimisation."""
        ...

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` optimiser steps; True when the batch is done."""
        ...

    def finish(self) -> EditReport:
        """Commit the batch: freeze experts, write weights, store keys."""
        ...

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Next-token logits (M, V) at `prompts.scored`, in row-major order.

        Without `state`, whole rows. A fresh `DecodeState` starts a generation on the prompts; with
        the state that a call returned, `prompts` holds only the new tokens of each row.
        """
        ...

    def state(self) -> State:
        """Everything needed to go on; inside a batch the batch itself and its optimiser too.

        The tensors are the method's own, which it goes on writing to: whoever keeps a state takes a
        `states.snapshot` of it first. So nothing lies twice on a GPU.
        """
        ...

    def load(self, state: State) -> None:
        """Continue from `state`, on a freshly built method."""
        ...

    def remove(self) -> None:
        """Restore the backbone bit for bit."""
        ...


@runtime_checkable
class SideBySide(Protocol):
    """An editor that learns edits which are each rolled back, side by side.

    Each has parameters, an optimiser and a stop of its own, so that it ends as it would alone.
    """

    @property
    def most_side_by_side(self) -> int:
        """Edits at a time, at least 1."""
        ...

    def begin_each(self, batch: EditBatch) -> None:
        """Set up the optimisation of every edit of the batch by itself; `advance` steps all."""
        ...

    def finish_each(self) -> list[EditReport]:
        """Commit the edits, when all are done; reports in their order."""
        ...

    def take(self, number: int) -> None:
        """From now on answer as with edit `number` of the batch alone, done or not."""
        ...
