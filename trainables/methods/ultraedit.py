"""UltraEdit: shifts of several linear modules in closed form, from one forward and backward pass.

Source: Gu et al., "UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Language
Models" (arXiv:2505.14679), and its public code. No text of the paper was at hand: the equations are
those of the code. For each edited module, of the S target tokens of a batch, H (S, in) is what
enters the module where a target token is predicted, and G (S, out) the gradient of that token's
negative log-likelihood at its output. Over all batches so far, the present one included, each
coordinate of [H|G] has a mean and a variance: what is normalised by them bears a hat. Then

    v_i = -edit_lr * |h^_i|^2 * g^_i
    (H^T H + l2_weight * I) X = H^T V,     W += X^T

with the H that is not normalised. There is no training, no subject and no text to take moments of.

Choices where the source is silent:
- `normalised_over: shape` is the public code: all modules of one shape share the statistics, each
  of them bringing its own tokens; `module`: each has its own.
- A coordinate that never varied is 0 when normalised; published code divides by a small number.
- The weights change in `finish`: a batch that is scored before shows the floor. It has no optimiser
  steps.
- As long as one token alone came nothing varies and nothing changes: `no_statistics` counts it.

Deviations from the public code:
- The variance is that of all tokens, whatever parts they came in: the code adds up variances of
  parts, each divided by one token less than it has, as if by all.
- The loss is summed over tokens; there it is the mean over the tokens of 10 rows, so that G depends
  on what runs beside a row. A common factor cancels in the normalisation.
- A batch may have any size: the code counts H's parts of 10 rows upwards, G's downwards.
- Where a family keeps gate and up in one weight, its rows count as two modules.
- All is solved in float64, in the smaller of two sizes: X is H^T (H H^T + l2_weight I)^-1 V, too.
- Of a backbone in float16 or bfloat16 the weights are summed up in float32 and written rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.covariance import solved
from trainables.backbones.hidden_states.module_gradients import module_factors
from trainables.backbones.surgery import get_module
from trainables.backbones.written_weights import WrittenWeights
from trainables.errors import ConfigError
from trainables.field_kinds import Positive, checked
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
from trainables.optimise import begun, stored_batch
from trainables.prompts import batch_state

Module = Literal["gate", "up", "down"]


@checked
class Config:
    """Settings of UltraEdit.

    Attributes:
        layers: Decoder layers whose modules are shifted, from 0.
        modules: Which of each FFN: `gate`, `up`, `down`.
        gate_layers: Layers of the gates, where they are others; None: `layers`.
        edit_lr: Eta, the size of a shift; grows with the squared length of a normalised input, and
            so with the module's width.
        l2_weight: Weight of the shift's own square.
        normalised_over: Whether modules of one `shape` share their statistics, or each `module` has
            its own.
    """

    layers: tuple[int, ...]
    modules: tuple[Module, ...]
    gate_layers: tuple[int, ...] | None
    edit_lr: Positive
    l2_weight: Positive
    normalised_over: Literal["shape", "module"]

    def __post_init__(self) -> None:
        for name, layers in (("layers", self.layers), ("gate_layers", self.gate_layers)):
            if layers is None:
                continue
            if not layers or min(layers) < 0 or len(set(layers)) < len(layers):
                raise ConfigError(
                    f"method.{name} is {list(layers)}; name at least one, from 0, each once"
                )
        if not self.modules or len(set(self.modules)) < len(self.modules):
            raise ConfigError(
                f"method.modules is {list(self.modules)}; name at least one of gate, up, down, "
                "each once"
            )
        if self.gate_layers is not None and "gate" not in self.modules:
            raise ConfigError(
                f"method.gate_layers is {list(self.gate_layers)} with method.modules="
                f"{list(self.modules)}; gate must be among them"
            )


@dataclass(frozen=True)
class _Place:
    """A module that is shifted.

    Attributes:
        name: Of its weight, `<layer>/<module>`.
        path: Dotted.
        half: Of a weight that holds gate and up: 0 for the gate's rows, 1 for the others.
    """

    name: str
    path: str
    half: int | None = None

    def own(self, outputs: Tensor) -> Tensor:
        """The columns (S, out) of `outputs` that belong to it."""
        return outputs if self.half is None else outputs.chunk(2, dim=1)[self.half]

    def whole(self, change: Tensor) -> Tensor:
        """The change of the weight, given that of its own rows (out, in)."""
        if self.half is None:
            return change
        rest = torch.zeros_like(change)
        return torch.cat([change, rest] if self.half == 0 else [rest, change])


class Running:
    """Mean and variance of each coordinate over all rows that came, in float64."""

    def __init__(self) -> None:
        self.num_rows = 0
        self.mean: Tensor | None = None  # (C,)
        self.squares: Tensor | None = None  # sum of (x - mean)^2, (C,)

    def update(self, rows: Tensor) -> None:
        """Take in `rows` (S, C), by Chan's formula for two parts."""
        rows = rows.double()
        mean, count = rows.mean(0), len(rows)
        squares = (rows - mean).square().sum(0)
        if self.mean is None or self.squares is None:
            self.num_rows, self.mean, self.squares = count, mean, squares
            return
        total, apart = self.num_rows + count, mean - self.mean
        self.squares = self.squares + squares + apart.square() * (self.num_rows * count / total)
        self.mean = self.mean + apart * (count / total)
        self.num_rows = total

    def normalised(self, rows: Tensor) -> Tensor:
        """(rows - mean) / standard deviation, (S, C) float64; 0 where nothing ever varied."""
        assert self.mean is not None
        assert self.squares is not None
        deviation = (self.squares / max(self.num_rows - 1, 1)).sqrt()
        # Not by 0, but by what rounding leaves of equal numbers.
        varies = deviation > 1e-12 * self.mean.abs().clamp_min(torch.finfo(torch.float32).tiny)
        apart = (rows.double() - self.mean) / torch.where(varies, deviation, 1.0)
        return torch.where(varies, apart, 0.0)


def check_modules(config: Config, family: Family) -> None:
    """Refuse modules that the family's FFN lacks.

    Raises:
        ConfigError: If it has no gate and one is named.
    """
    if "gate" in config.modules and family.gate is None:
        raise ConfigError(
            f"method.modules names gate; family {family.name!r} has none; allowed: up, down"
        )


class UltraEdit:
    """Shifts of linear modules in closed form."""

    num_steps = 0
    changes_in_finish = True

    def __init__(
        self, config: Config, backbone: Backbone, artefacts: Artefacts, generators: Generators
    ) -> None:
        self._config = config
        self._backbone = backbone
        self._places = _places(config, backbone)
        self.first_layer = min((*config.layers, *(config.gate_layers or config.layers)))
        self._weights = WrittenWeights(backbone, {each.name: each.path for each in self._places})
        self._split = Split(backbone, self.first_layer, artefacts.prefix_cache)
        self._running: dict[str, Running] = {}
        self._batch: EditBatch | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Nothing to build."""

    def begin(self, batch: EditBatch) -> None:
        """Take the batch; all is done in `finish`."""
        self._batch = batch

    def advance(self, max_steps: int) -> bool:
        """There are no steps."""
        return True

    def finish(self) -> EditReport:
        """Take the factors of all modules, and shift each of them.

        Raises:
            EditDiverged: If a shift is not finite.
        """
        batch = begun(self._batch)
        factors = self._factors(batch)
        for place, (keys, gradients) in zip(self._places, factors, strict=True):
            self._statistics(place, keys, gradients).update(torch.cat([keys, gradients], 1))
        for place, (keys, gradients) in zip(self._places, factors, strict=True):
            hat = self._statistics(place, keys, gradients).normalised(
                torch.cat([keys, gradients], 1)
            )
            key_hats, gradient_hats = hat.split([keys.shape[1], gradients.shape[1]], 1)
            values = wanted_values(key_hats, gradient_hats, self._config.edit_lr)
            change = module_shift(keys.double(), values, self._config.l2_weight).T
            self._weights.add(place.name, place.whole(change))
        self._batch = None
        is_alone = all(each.num_rows < 2 for each in self._running.values())
        return EditReport(len(batch), counts={"no_statistics": int(is_alone)})

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) of the backbone with the shifted weights."""
        return self._split.logits(prompts, state)

    def state(self) -> State:
        """The weights and the statistics; the batch when one is under way."""
        state = State(self._weights.tensors())
        for name, running in self._running.items():
            assert running.mean is not None
            assert running.squares is not None
            state.tensors[f"mean/{name}"] = running.mean
            state.tensors[f"squares/{name}"] = running.squares
        state.values["num_rows"] = {name: each.num_rows for name, each in self._running.items()}
        if self._batch is not None:
            state.nest("batch", batch_state(self._batch))
        return state

    def load(self, state: State) -> None:
        """Continue from `state`."""
        device = self._backbone.device
        self._weights.load(state.tensors)
        self._running = {}
        counts = state.values["num_rows"]
        assert isinstance(counts, dict)
        for name, count in counts.items():
            running = self._running[name] = Running()
            running.num_rows = int(count)
            running.mean = state.tensors[f"mean/{name}"].to(device).clone()
            running.squares = state.tensors[f"squares/{name}"].to(device).clone()
        self._batch = stored_batch(state, device)

    def remove(self) -> None:
        """Put the pristine weights back, bit for bit, and forget the statistics."""
        self._weights.restore()
        self._running, self._batch = {}, None

    def inference_bytes(self) -> int:
        """The weights as the backbone holds them."""
        return self._weights.num_bytes

    def _factors(self, batch: EditBatch) -> list[tuple[Tensor, Tensor]]:
        """H (S, in) and G (S, out) of each place."""
        paths = list(dict.fromkeys(place.path for place in self._places))
        parts = list(
            module_factors(
                self._split, paths, batch.tokens, batch.labels, at_scored=True, loss_of="token"
            )
        )
        keys = {path: torch.cat([part[path].keys for part in parts]) for path in paths}
        deltas = {path: torch.cat([part[path].deltas for part in parts]) for path in paths}
        return [(keys[place.path], place.own(deltas[place.path])) for place in self._places]

    def _statistics(self, place: _Place, keys: Tensor, gradients: Tensor) -> Running:
        """Those that the place shares, or its own."""
        name = place.name if place.half is None else f"{place.name}/{place.half}"
        if self._config.normalised_over == "shape":
            name = f"{keys.shape[1]}x{gradients.shape[1]}"
        return self._running.setdefault(name, Running())


def _places(config: Config, backbone: Backbone) -> list[_Place]:
    """The modules, layer by layer.

    Raises:
        ConfigError: If a layer is not there, or the family's FFN has no gate.
    """
    family, places = backbone.family, []
    check_modules(config, family)
    for kind in config.modules:
        module = {"gate": family.gate, "up": family.up, "down": family.down}[kind]
        name = "gate_layers" if kind == "gate" and config.gate_layers else "layers"
        layers = getattr(config, name)
        half = {"gate": 0, "up": 1}.get(kind) if family.is_fused else None
        for layer in layers:
            if layer >= backbone.num_layers:
                raise ConfigError(
                    f"method.{name} is {list(layers)}; allowed: 0 to {backbone.num_layers - 1}"
                )
            path = f"{backbone.layer_path(layer)}.{module}"
            get_module(backbone.model, path)
            places.append(_Place(f"{layer}/{module}", path, half))
    return sorted(places, key=lambda place: (int(place.name.partition("/")[0]), place.name))


def wanted_values(keys: Tensor, gradients: Tensor, edit_lr: float) -> Tensor:
    """V (S, out): -edit_lr |h^|^2 g^ of normalised keys (S, in) and gradients (S, out)."""
    return -edit_lr * keys.square().sum(1, keepdim=True) * gradients


def module_shift(keys: Tensor, values: Tensor, l2_weight: float) -> Tensor:
    """X (in, out) with (H^T H + l2_weight I) X = H^T V, H = `keys` (S, in), V = `values` (S, out).

    Solved for S unknowns where there are fewer tokens than inputs.

    Raises:
        EditDiverged: If it cannot be solved.
    """
    is_wide = len(keys) < keys.shape[1]
    system = keys @ keys.T if is_wide else keys.T @ keys
    found = solved(system, values if is_wide else keys.T @ values, l2_weight)
    return keys.T @ found if is_wide else found


VERSION = 1
CONFIG = Config
METHOD = UltraEdit
