"""DEFER: a gate that decides for each prompt whether a second linear map answers in one layer.

Source: the baseline of Hartvigsen et al., "Aging with GRACE: Lifelong Model Editing with Discrete
Key-Value Adaptors" (arXiv:2211.11031), which puts SERAC's scope classifier and counterfactual model
(Mitchell et al., arXiv:2206.06520) into one layer. LEMoE (arXiv:2406.20030v1), Appendix B.2, takes
Adam at 7e-5, the best of 7e-5, 7e-4 and 1e-3.

Of what enters the FFN's output projection at the last prompt token, q (F,), are made

    g = sigmoid(w . q + b)   and   o = V q + c   (D,),

and the projection's output at every position, y, becomes

    g o + (1 - g) y          while an edit is learned,
    o if g >= 1/2, else y    when a prompt is answered.

V, c, w and b are learned together from the targets alone; no prompt is shown that is to be left
alone. So nothing closes the gate for other prompts, and long streams print it as collapsing.

Deviations, and choices where the paper is silent:
- LEMoE calls o, too, a linear layer with a sigmoid; the public code (GRACE) has none there, and
  what leaves a projection is not confined to (0, 1).
- q is of the prompt's last token, in training as in answering. The public code (GRACE) takes the
  last token of the row: in training the target's, which no answer begins at, and in a padded batch
  the padding.
- The gate is read once for each prompt, and o is kept with it while an answer is generated.
- Both maps begin as torch's linear layers do, uniform within 1 / sqrt(F), on the first edit: before
  it the backbone answers, as in the public code. They go on through a stream; Adam is fresh in each
  batch, and there is no early stop.
- The projection is that of the FFN's output also on GPT2-XL, where the public code of GRACE wraps
  the one before it.

The maps are float32 whatever the backbone is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.artefacts import Artefacts
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.backbones.layers import check_edit_layer
from trainables.backbones.surgery import get_module
from trainables.field_kinds import Count, CountOrZero, Positive, checked
from trainables.interfaces import (
    Backbone,
    DecodeState,
    EditBatch,
    EditReport,
    Generators,
    PromptBatch,
    State,
    TrainingRecord,
)
from trainables.optimise import (
    BatchRun,
    Optimisation,
    OptimiserSettings,
    TargetRows,
    begun,
    row_loss,
    stored_batch,
    token_losses,
)
from trainables.passing import Passing, PassingLoss
from trainables.prompts import row_index


@checked
class Config:
    """Settings of DEFER.

    Attributes:
        edit_layer: Decoder layer whose FFN output projection is deferred, from 0.
        edit_lr: Adam's learning rate.
        num_steps: Steps of one batch of edits.
    """

    edit_layer: CountOrZero
    edit_lr: Positive
    num_steps: Count


@dataclass(frozen=True)
class Choice:
    """What was decided for some prompts.

    Attributes:
        is_open: Whether the second map answers, (B,) bool.
        values: Its output o, (B, D).
    """

    is_open: Tensor
    values: Tensor

    def replaced(self, output: Tensor) -> Tensor:
        """The projection's output (B, T, D), or o at every position where the gate is open."""
        values = self.values[:, None].to(output)
        return torch.where(self.is_open[:, None, None].to(output.device), values, output)


class Deferral(nn.Module):
    """The gate and the second map, both of q."""

    def __init__(
        self, key_size: int, width: int, generator: torch.Generator, dtype: torch.dtype
    ) -> None:
        """Draw both uniformly within 1 / sqrt(key_size).

        Args:
            key_size: F.
            width: D.
            generator: On the host.
            dtype: Of the weights.
        """
        super().__init__()
        bound = 1 / math.sqrt(key_size)

        def drawn(*shape: int) -> nn.Parameter:
            numbers = torch.rand(*shape, generator=generator)
            return nn.Parameter(((2 * numbers - 1) * bound).to(dtype))

        self.gate, self.gate_bias = drawn(key_size), drawn(1)
        self.map, self.map_bias = drawn(width, key_size), drawn(width)

    def opening(self, queries: Tensor) -> Tensor:
        """What the gate is the sigmoid of, w . q + b of queries (B, F), (B,)."""
        return queries @ self.gate + self.gate_bias

    def values(self, queries: Tensor) -> Tensor:
        """Output o of the second map for queries (B, F), (B, D)."""
        return queries @ self.map.T + self.map_bias

    def added(self, queries: Tensor, output: Tensor) -> Tensor:
        """What training adds to the projection's output y (B, T, D): g (o - y).

        The result has the dtype of the weights.
        """
        gates = self.opening(queries).sigmoid()[:, None, None]
        return gates * (self.values(queries)[:, None] - output.to(gates))

    @torch.no_grad()
    def choice(self, queries: Tensor) -> Choice:
        """What answers prompts with these queries (B, F): sigmoid(x) >= 1/2 where x >= 0."""
        return Choice(self.opening(queries) >= 0, self.values(queries))


class Defer:
    """Replaces the output of one projection for prompts that open a gate."""

    changes_in_finish = False

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        layer = config.edit_layer
        check_edit_layer(layer, backbone)
        self.first_layer = layer
        self.num_steps = config.num_steps
        self._config = config
        self._backbone = backbone
        self._split = Split(backbone, layer, artefacts.prefix_cache)
        path = backbone.down_path(layer)
        self._site = Site(backbone, layer, path, artefacts.prefix_cache)
        self._down = get_module(backbone.model, path)
        self._generator = generators.init
        self._deferral: Deferral | None = None  # until the first edit
        self._num_edits = 0
        self.run: BatchRun | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Nothing to build."""

    def begin(self, batch: EditBatch) -> None:
        """Put the gate and the map in place if there are none yet, and set up Adam on them."""
        if self._deferral is None:
            self._deferral = self._made(self._generator)
        self.run = self._started(batch, self._deferral)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` Adam steps; True when the batch is done."""
        return begun(self.run).advance(max_steps)

    def finish(self) -> EditReport:
        """Freeze the gate and the map."""
        run = begun(self.run)
        self._num_edits += len(run.batch)
        _freeze(begun(self._deferral))
        self.run = None
        return run.report()

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V), with the projection's output replaced for prompts that open the gate."""
        deferral = self._deferral
        if deferral is None:
            return self._split.logits(prompts, state)
        choice: Choice | None = None if state is None else state.route
        ends = prompts.prompt_ends

        def answer(inputs: Tensor, output: Tensor) -> Tensor:
            nonlocal choice
            if choice is None:
                choice = deferral.choice(_queries(inputs, ends).to(deferral.gate))
            return choice.replaced(output)

        with self._watched(answer):
            logits, after = self._split.logits(prompts, state)
        if state is not None:
            after.route = choice
        return logits, after

    @torch.no_grad()
    def routes(self, prompts: PromptBatch) -> Tensor:
        """0 where the gate is open, else -1, (B,). The layers above are not run."""
        closed = torch.full_like(prompts.prompt_lengths, -1)
        if self._deferral is None:
            return closed
        inputs, _ = self._site.frozen(prompts)
        queries = _queries(inputs, prompts.prompt_ends).to(self._deferral.gate)
        is_open = self._deferral.choice(queries).is_open
        return torch.where(is_open.to(closed.device), 0, closed)

    def trained_routes(self) -> list[int]:
        """0 for each edit so far: the one map learned them all."""
        return [0] * self._num_edits

    def state(self) -> State:
        """The gate and the map; the batch and its optimiser when one is under way."""
        state = State({"generator": self._generator.get_state()}, {"num_edits": self._num_edits})
        if self._deferral is not None:
            weights = {name: value.detach() for name, value in self._deferral.named_parameters()}
            state.nest("deferral", State(weights))
        if self.run is not None:
            self.run.store(state)
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self._generator.set_state(state.tensors["generator"].cpu())
        self._num_edits = int(state.values["num_edits"])  # type: ignore[arg-type]
        self._deferral, self.run = None, None
        if "deferral" in state.values:
            self._deferral = self._made(torch.Generator())
            self._deferral.load_state_dict(state.inner("deferral").tensors)
        batch = stored_batch(state, self._backbone.device)
        if batch is not None:
            self.run = self._started(batch, begun(self._deferral))
            self.run.resume(state)

    def remove(self) -> None:
        """Forget the gate and the map; the backbone itself was never changed."""
        self._deferral, self.run, self._num_edits = None, None, 0

    def inference_bytes(self) -> int:
        """The gate and the map."""
        if self._deferral is None:
            return 0
        return sum(parameter.nbytes for parameter in self._deferral.parameters())

    def _made(self, generator: torch.Generator) -> Deferral:
        backbone = self._backbone
        dtype = torch.promote_types(backbone.dtype, torch.float32)
        made = Deferral(backbone.ffn_size, backbone.hidden_size, generator, dtype)
        _freeze(made)
        return made.to(backbone.device)

    def _started(self, batch: EditBatch, deferral: Deferral) -> BatchRun:
        """Set up the optimisation of gate and map, from what the frozen layer makes of `batch`."""
        tokens, rows = batch.tokens, TargetRows.of(row_index(batch.tokens))
        with torch.no_grad():
            inputs, output = self._site.frozen(tokens)
            queries = _queries(inputs, tokens.prompt_ends).to(deferral.gate)
            own = self._down(inputs)
        deferral.requires_grad_(True)

        def loss() -> Passing:
            changed = output + deferral.added(queries, own).to(output.dtype)
            losses = yield self._site.passage(token_losses, tokens, changed, batch.labels)
            return row_loss(losses, rows)

        config = self._config
        optimisation = Optimisation(
            dict(deferral.named_parameters()),
            PassingLoss(loss),
            OptimiserSettings("adam", config.edit_lr, config.num_steps),
            agreed=self._backbone.micro_batch.agreed,
        )
        return BatchRun(batch, optimisation)

    @contextmanager
    def _watched(self, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
        """Within the block the projection returns `change(its input, its output)`."""

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return change(inputs[0], output)

        # A hook for the length of one call leaves nothing in the backbone to restore.
        handle = self._down.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def _queries(inputs: Tensor, columns: Tensor) -> Tensor:
    """What stands in one column of each row: (B, T, F) and (B,) -> (B, F)."""
    columns = columns.to(inputs.device)
    return inputs[torch.arange(len(inputs), device=inputs.device), columns]


def _freeze(deferral: Deferral) -> None:
    deferral.requires_grad_(False)
    for parameter in deferral.parameters():
        parameter.grad = None


CONFIG = Config
METHOD = Defer
VERSION = 2  # rows are packed where they train
