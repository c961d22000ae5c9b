"""COMEBA-HK (CoachHooK): MEMIT on copies of the projections that answer for single tokens alone.

Source: Li et al., "Consecutive Batch Model Editing with HooK Layers" (arXiv:2403.05330), as its
authors sum up its equations, without numbers, in the README of their code; the rest is of that
code. MEMoE v1 and v2 quote its results as COMEBA.

Each edited FFN output projection W_0 stays, and beside it stands a hook layer W_h, which begins as
W_0 and is what MEMIT's closed form writes:

    W_h += R K^T C_accu^-1,   C_accu = cov_weight * C + K' K'^T + K K^T,

with K the keys of the batch, K' those of all batches before, and R the residuals that MEMIT spreads
over the layers (`assemblies/spread_vectors.py`). Of each token k of a prompt is taken how far the
two are apart, m = |W_h k - W_0 k|, and as z how many standard deviations m lies above the mean over
the tokens of the prompt. A token with z >= alpha gets W_h k, every other one W_0 k. Alpha, of each
layer its own, begins at `hook_threshold`; after a batch it becomes the least, over the prompts of
the batch run through the unedited backbone, of the largest z in a prompt, if that is less: so it
never rises, and every edited prompt has a token that passes there.

The order in a batch is that of the public code: vectors are found with all layers gated; then all
hook layers answer for every token, and one layer after another is written and gated again.

Choices where the source is silent:
- z is of the prompt's tokens alone, by the sample deviation; what follows a prompt gets W_0, and so
  does a prompt of one token or whose tokens all lie equally far apart, where z is not defined. The
  public code takes z of the whole row that it is given, which holds the target when a known answer
  is scored, and a single new token while one is generated: there it is not defined either.
- The alpha that a batch leaves is lowered by the square root of the dtype's precision. The prompt
  that sets it else stands at its own limit, on which side rounding decides.
- W_h - W_0 is what is kept, in float32, and m and the answer are made of it: of two outputs in
  bfloat16 little would be left of a small difference.
- Padding enters no mean: in the public code's batches of prompts it does. Nor is anything written
  into a tensor that autograd may need.
- Everything else, such as C, contexts, an absent subject, families with a norm behind the FFN and
  the last layer, as `memit.py` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from trainables.artefacts import Artefacts
from trainables.assemblies.ordinary_text import check_text, stored_contexts, stored_moments
from trainables.assemblies.spread_vectors import (
    Search,
    VectorRun,
    below_last,
    check_listed,
    least_squares_update,
    spread,
)
from trainables.assemblies.vectors_apart import least_squares_directions
from trainables.backbones.families import check_ffn_is_added
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.covariance import states_above, watched_keys
from trainables.backbones.hidden_states.subject_rows import KlPosition, edits_at_once
from trainables.backbones.hidden_states.subject_vectors import VectorSettings
from trainables.backbones.surgery import get_module
from trainables.errors import DataError, EditDiverged
from trainables.field_kinds import Count, CountOrZero, Positive, PositiveOrZero, checked
from trainables.interfaces import (
    Backbone,
    DecodeState,
    EditBatch,
    EditReport,
    Family,
    Generators,
    PromptBatch,
    State,
    TrainingRecord,
)
from trainables.methods.comeba_hk.apart import HooksApart, running
from trainables.methods.comeba_hk.hooks import HookLayer, largest_z
from trainables.optimise import begun, stored_batch


@checked
class Config:
    """Settings of COMEBA-HK.

    Attributes:
        layers: Decoder layers whose FFN output projections get a hook layer, from 0; not the last.
        v_lr: Adam's learning rate on the vectors.
        v_num_steps: Most updates of the vectors of one batch.
        v_weight_decay: Weight of |delta| / |h|^2.
        stop_loss: An edit below it is not moved any more; nats.
        clamp: Largest |delta| as a multiple of |h|.
        kl_weight: Weight of the term that keeps "{subject} is a"; 0: without it, and cheaper.
        kl_position: Token of that prompt whose prediction is kept.
        cov_weight: Weight of the second moment against one edit's key.
        hook_threshold: Alpha before the first batch, in standard deviations.
        contexts: Sampled prefixes beside the bare prompt.
        context_length: Tokens of such a prefix.
        covariance_tokens_per_dim: Tokens that C is made from, per key dimension.
        covariance_text: Text file for C, one passage a line; None: the checkpoint's own text, or
            one that the backbone samples.
    """

    layers: tuple[int, ...]
    v_lr: Positive
    v_num_steps: Count
    v_weight_decay: PositiveOrZero
    stop_loss: PositiveOrZero
    clamp: Positive
    kl_weight: PositiveOrZero
    kl_position: KlPosition
    cov_weight: Positive
    hook_threshold: Positive
    contexts: CountOrZero
    context_length: Count
    covariance_tokens_per_dim: Count
    covariance_text: str | None

    def __post_init__(self) -> None:
        check_listed(self.layers)
        check_text(self.covariance_text)


def check_family(family: Family) -> None:
    """Refuse a family whose FFN output passes a norm before it reaches the residual stream.

    Raises:
        BackboneError: If it does.
    """
    check_ffn_is_added(family, "comeba_hk")


class ComebaHk:
    """Hook layers beside some projections, which answer for the tokens that stand out."""

    changes_in_finish = True

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        check_family(backbone.family)
        self._layers = below_last(config.layers, backbone.num_layers)
        self.first_layer = self._layers[0]
        self.num_steps = config.v_num_steps
        self._config = config
        self._backbone = backbone
        self._wide = torch.promote_types(backbone.dtype, torch.float32)
        self._artefacts = artefacts
        # A hook finds its rows by their numbers, and so runs on some of a batch as well.
        self._split = Split(
            backbone, self.first_layer, artefacts.prefix_cache, has_batch_state=False
        )
        self._moments: Mapping[int, Tensor] = {}  # C, (F, F) float32
        self._contexts: tuple[str, ...] = ()
        self._is_sampled = False
        self._hooks: dict[int, HookLayer] = {}  # none before the first batch is written
        self._run: VectorRun | None = None
        self._apart: HooksApart | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Second moments and contexts of the pristine backbone, through artefacts.

        Raises:
            DataError: If `covariance_text` holds no text.
        """
        del training  # C is of ordinary text
        config, split, store = self._config, self._split, self._artefacts
        found = stored_moments(
            split, store, self._layers, config.covariance_tokens_per_dim, config.covariance_text
        )
        self._moments, self._is_sampled = found.of_layer, found.is_sampled
        self._contexts = stored_contexts(split, store, config.contexts, config.context_length)

    def begin(self, batch: EditBatch) -> None:
        """Set up one vector for each edit, behind the gated layers; nothing changes yet.

        Raises:
            DataError: If there are no second moments yet.
        """
        self._run = self._vectors(batch, within=self._gated)
        self.num_steps = self._run.num_steps

    def begin_each(self, batch: EditBatch) -> None:
        """Set up one vector for each edit, whose hook layers will be its own.

        Raises:
            DataError: If there are no second moments yet.
        """
        run = self._vectors(batch)
        self._apart, self.num_steps = HooksApart(run), run.num_steps

    @property
    def most_side_by_side(self) -> int:
        """Edits whose rows run all at once."""
        with_kl = self._config.kl_weight > 0
        return edits_at_once(self._backbone, len(self._contexts), with_kl=with_kl)

    def advance(self, max_steps: int) -> bool:
        """Take at most `max_steps` updates of the vectors; True when they are found."""
        run = begun(self._run) if self._apart is None else self._apart.run
        return run.advance(max_steps)

    @torch.no_grad()
    def finish(self) -> EditReport:
        """Write the hook layers, one after another, and let the batch lower their thresholds."""
        run = begun(self._run)
        for layer in self._layers:
            self._hooks.setdefault(layer, self._fresh())
        mask = run.rows.prompts().prompt_mask
        masks: dict[int, Tensor | None] = dict.fromkeys(self._layers)
        with self._hooked(masks):
            for layer, keys, residuals in spread(self._backbone, run, self._layers):
                self._write(layer, keys, residuals)
                masks[layer] = mask
        self._lower(run.batch.tokens)
        self._run = None
        threshold = mean(hook.threshold for hook in self._hooks.values())
        return replace(run.report(self._is_sampled), numbers={"hook_threshold": threshold})

    def finish_each(self) -> list[EditReport]:
        """Find the hook layers and thresholds of each edit alone."""
        apart, config = begun(self._apart), self._config

        def directions(layer: int, keys: Tensor) -> Tensor:
            return least_squares_directions(keys, config.cov_weight * self._moments[layer].to(keys))

        apart.spread(self._backbone, self._layers, directions, config.hook_threshold)
        means = [mean(of_edit) for of_edit in zip(*apart.thresholds.values(), strict=True)]
        reports = apart.run.reports(self._is_sampled)
        return [
            replace(each, numbers={"hook_threshold": own})
            for each, own in zip(reports, means, strict=True)
        ]

    def take(self, number: int) -> None:
        """Put the hook layers of one edit in place, if `finish_each` has come.

        Raises:
            EditDiverged: If one is not finite.
        """
        self._hooks = begun(self._apart).hooks(number, self._wide)

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) with the hook layers gated on the prompt; what follows it has W_0."""
        if state is not None and state.cache is not None:  # what follows
            return self._split.logits(prompts, state)
        with self._gated(prompts):
            return self._split.logits(prompts, state)

    def state(self) -> State:
        """The hook layers; the vectors when a batch is under way."""
        if self._apart is not None:  # the hook layers are those of the edit that was taken
            state = State(values={"is_apart": True})
            self._apart.run.store(state)
            return state
        state = State()
        for layer, hook in self._hooks.items():
            state.tensors[f"change/{layer}"] = hook.change
            state.tensors[f"products/{layer}"] = hook.products
        state.values["thresholds"] = {
            str(layer): hook.threshold for layer, hook in self._hooks.items()
        }
        if self._run is not None:
            self._run.store(state)
        return state

    def load(self, state: State) -> None:
        """Continue from `state`; `prepare` comes first."""
        self.remove()
        device = self._backbone.device
        batch = stored_batch(state, device)
        if batch is not None and "is_apart" in state.values:
            self.begin_each(batch)
            begun(self._apart).run.resume(state)
            return
        stored: Any = state.values["thresholds"]
        self._hooks = {
            int(layer): HookLayer(
                state.tensors[f"change/{layer}"].to(device).clone(),
                state.tensors[f"products/{layer}"].to(device).clone(),
                float(threshold),
            )
            for layer, threshold in stored.items()
        }
        if batch is not None:
            self.begin(batch)
            begun(self._run).resume(state)

    def remove(self) -> None:
        """Forget the hook layers; the backbone itself was never changed."""
        self._hooks, self._run, self._apart = {}, None, None

    def inference_bytes(self) -> int:
        """The hook layers' changes; the remembered keys serve further edits alone."""
        return sum(hook.change.nbytes for hook in self._hooks.values())

    def _vectors(
        self,
        batch: EditBatch,
        within: Callable[[PromptBatch], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> VectorRun:
        if not self._moments:
            raise DataError("comeba_hk has no second moments: prepare() comes before an edit")
        config = self._config
        search = Search(
            config.v_lr,
            config.v_num_steps,
            VectorSettings(config.v_weight_decay, config.stop_loss, config.clamp, config.kl_weight),
            config.kl_position,
        )
        last = self._layers[-1]
        return VectorRun(self._backbone, batch, self._contexts, last, search, within)

    def _fresh(self) -> HookLayer:
        backbone = self._backbone
        change = torch.zeros(
            backbone.hidden_size, backbone.ffn_size, dtype=self._wide, device=backbone.device
        )
        products = change.new_zeros(backbone.ffn_size, backbone.ffn_size, dtype=torch.float64)
        return HookLayer(change, products, self._config.hook_threshold)

    def _write(self, layer: int, keys: Tensor, residuals: Tensor) -> None:
        """Add the update of `keys` (F, N) and `residuals` (D, N) to the hook layer."""
        hook = self._hooks[layer]
        old = self._config.cov_weight * self._moments[layer].to(keys) + hook.products
        update = least_squares_update(keys, residuals, old)
        if not bool(torch.isfinite(update).all()):
            raise EditDiverged(f"the update of layer {layer} is not finite")
        hook.change += update.to(hook.change)
        hook.products += keys @ keys.T

    def _lower(self, prompts: PromptBatch) -> None:
        """Lower each alpha to the least, over prompts, of the largest z in the bare backbone."""
        largest: dict[int, list[Tensor]] = {layer: [] for layer in self._layers}
        mask = prompts.prompt_mask

        def note(layer: int, keys: Tensor) -> None:  # of one micro-batch
            sizes = self._hooks[layer].added(keys).norm(dim=-1)
            largest[layer].append(largest_z(sizes, running(self._backbone, mask)))

        with watched_keys(self._backbone, self._layers, note):
            states_above(self._backbone, self._layers[-1], prompts)
        slack = math.sqrt(torch.finfo(self._backbone.dtype).eps)
        for layer, found in largest.items():
            of_prompt = torch.cat(found)
            defined = of_prompt[of_prompt > -math.inf]
            if len(defined):
                hook = self._hooks[layer]
                hook.threshold = min(hook.threshold, float(defined.amin()) - slack)

    @contextmanager
    def _gated(self, prompts: PromptBatch) -> Iterator[None]:
        """Within the block the hook layers answer for those tokens of `prompts` that pass."""
        with self._hooked(dict.fromkeys(self._hooks, prompts.prompt_mask)):
            yield

    @contextmanager
    def _hooked(self, masks: Mapping[int, Tensor | None]) -> Iterator[None]:
        """Within the block hook layers answer; `masks` as they then are: None for every token."""

        def hook(layer: int, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            mask = masks[layer]
            own = None if mask is None else running(self._backbone, mask)
            return self._hooks[layer].answered(inputs[0], output, own)

        # Hooks for the length of one block leave nothing in the backbone to restore.
        with ExitStack() as stack:
            for layer in masks:
                down = get_module(self._backbone.model, self._backbone.down_path(layer))
                stack.callback(down.register_forward_hook(partial(hook, layer)).remove)
            yield


CONFIG = Config
METHOD = ComebaHk
VERSION = 5  # single edits side by side
