"""What MEND and MALMEN share: which weights they change, how their networks are trained and used.

A method says in a `ShiftRule` how factors and pseudo factors become a change of one weight, and how
a gradient by that change flows back into the networks.

Choices where the papers are silent, and deviations:
- Mean and deviation of what a network reads are taken once, before it is trained, from the first
  1,000 records it learns from: the backbone is frozen, so they are what both public codes' running
  figures come to, and nothing moves under a network while it learns.
- One network serves all seeds of a sweep (`training_seed`), as published figures are of one.
- Each edit's loss is the mean over its own target's tokens, so that what a network reads of an edit
  does not depend on the edits beside it; MALMEN's code takes the mean over all rows that it reads
  at a time.
- Tokens that no gradient reaches are left out, as in MEND's code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.trained_editor.networks import FactorNetworks, NetworkSettings
from trainables.assemblies.trained_editor.problems import (
    ROWS_PER_PASS,
    Problem,
    ProblemSettings,
    drawn_problem,
    token_terms,
)
from trainables.assemblies.trained_editor.rules import RuledNetworks, ShiftRule
from trainables.assemblies.trained_editor.training import Training, TrainingSettings
from trainables.assemblies.trainer import TrainerSettings, trained
from trainables.backbones.forward.split import Split
from trainables.backbones.hidden_states.module_gradients import ModuleFactors, module_factors
from trainables.backbones.written_weights import WrittenWeights
from trainables.errors import ConfigError, DataError
from trainables.interfaces import (
    Backbone,
    DecodeState,
    EditBatch,
    EditReport,
    Family,
    PromptBatch,
    State,
    TrainingRecord,
)
from trainables.optimise import begun, stored_batch
from trainables.prompts import batch_state, edit_batch, tokenise
from trainables.seeding import generator

Module = Literal["gate", "up", "down"]
_NUM_NORMALISING = 1000  # records that mean and deviation are taken from


@dataclass(frozen=True)
class EditorSettings:
    """What both methods set; their Configs say what it means."""

    layers: tuple[int, ...]
    modules: tuple[Module, ...]
    network_rank: int
    num_blocks: int
    training_lr: float
    rate_lr: float
    training_steps: int
    edits_at_once: int
    problems_per_step: int
    edit_weight: float
    locality_weight: float
    max_norm: float
    validate_every: int
    patience: int
    held_out: float
    most_held_out: int
    training_seed: int

    @classmethod
    def from_config(cls, config: object) -> EditorSettings:
        """The shared fields of a method's Config."""
        return cls(**{name: vars(config)[name] for name in cls.__dataclass_fields__})

    @property
    def training(self) -> TrainingSettings:
        """How a step is taken."""
        return TrainingSettings(
            self.edits_at_once,
            self.problems_per_step,
            self.training_lr,
            self.rate_lr,
            self.max_norm,
        )

    def trainer(self, name: str) -> TrainerSettings:
        """How long the networks are trained, and on what."""
        return TrainerSettings(
            name,
            self.training_steps,
            self.edits_at_once * self.problems_per_step,
            self.validate_every,
            self.patience,
            self.held_out,
            self.most_held_out,
            self.training_seed,
        )


def check_layers(layers: Sequence[int], modules: Sequence[str]) -> None:
    """Refuse layers or modules that name nothing, or something twice.

    Raises:
        ConfigError: If they do.
    """
    if not layers or min(layers) < 0:
        raise ConfigError(f"method.layers is {list(layers)}; name at least one, from 0")
    for key, own in (("layers", layers), ("modules", modules)):
        if len(set(own)) < len(own) or not own:
            raise ConfigError(f"method.{key} is {list(own)}; name at least one, and each once")


class TrainedEditor:
    """An edit method: networks, their rule, and the weights that they change."""

    changes_in_finish = True
    num_steps = 0

    def __init__(
        self,
        name: str,
        version: int,
        settings: EditorSettings,
        backbone: Backbone,
        artefacts: Artefacts,
        *,
        make_rule: Callable[[int], ShiftRule],
        scales: Literal["inside", "outside"],
        at_scored: bool,
        keeps_all_tokens: bool,
    ) -> None:
        """Nothing is trained yet.

        Args:
            name: Of the method.
            version: Of the method; part of the networks' key.
            settings: What is shared.
            backbone: Whose weights are changed.
            artefacts: The store.
            make_rule: Makes the method's rule for so many modules.
            scales: As in `NetworkSettings`.
            at_scored: Whether only tokens that predict a target token are read.
            keeps_all_tokens: As in `ProblemSettings`.
        """
        layers = sorted(settings.layers)
        if layers[-1] >= backbone.num_layers:
            raise ConfigError(f"method.layers is {layers}; allowed: 0 to {backbone.num_layers - 1}")
        self._name, self._version, self._settings = name, version, settings
        self._backbone, self._artefacts, self._make_rule = backbone, artefacts, make_rule
        self._paths = edited_paths(backbone, layers, settings.modules)
        self.weights = WrittenWeights(backbone, {path: path for path in self._paths})
        self.split = Split(backbone, layers[0], artefacts.prefix_cache, has_batch_state=False)
        self.first_layer = layers[0]
        self._network = NetworkSettings(settings.network_rank, settings.num_blocks, scales)
        self.problem_settings = ProblemSettings(
            settings.edit_weight, settings.locality_weight, keeps_all_tokens
        )
        self._at_scored = at_scored
        self._trained: RuledNetworks | None = None
        self._held_out_loss = 0.0
        self._batch: EditBatch | None = None

    def prepare(self, training: Sequence[TrainingRecord]) -> None:
        """Read the networks from the store, or train them.

        Raises:
            DataError: If there are too few records, or none has an unrelated question.
            EditDiverged: If the training diverges.
        """
        records = [record for record in training if self._fits(record)]
        if not any(record.unrelated for record in records):
            raise DataError(
                f"method {self._name} trains a network on records of the tune part, with "
                f"unrelated questions: of {len(training)} records none has one that fits"
            )
        settings = self._settings
        inputs = self._backbone.identity | {
            "method": self._name,
            "version": self._version,
            "paths": list(self._paths),
            "at_scored": self._at_scored,
            "network": asdict(self._network),
            "problem": asdict(self.problem_settings),
            "training": asdict(settings.training),
            "rule": {
                name: each.flatten().tolist()
                for name, each in self._new_rule().parts().state_dict().items()
            },
        }
        state = trained(
            self._artefacts,
            "editor",
            inputs,
            records,
            settings.trainer(self._name),
            self.trainee,
        )
        loss: Any = state.values["loss"]
        self._held_out_loss = float(loss)
        self._trained = self._untrained()
        self._trained.freeze(state)

    def begin(self, batch: EditBatch) -> None:
        """Take the batch; nothing changes before `finish`."""
        self._batch = batch

    def advance(self, max_steps: int) -> bool:
        """True: there is nothing to optimise."""
        begun(self._batch)
        return True

    def finish(self) -> EditReport:
        """Change the weights for the edits of the batch, at once.

        Raises:
            DataError: If nothing was prepared.
            EditDiverged: If a change is not finite.
        """
        batch = begun(self._batch)
        if self._trained is None:
            raise DataError(f"{self._name} has no network: prepare() comes before the first edit")
        for path, change in self._trained.changes(self._factors(batch)):
            self.weights.add(path, change)
        self._batch = None
        return EditReport(num_edits=len(batch), numbers={"network_loss": self._held_out_loss})

    def logits(
        self, prompts: PromptBatch, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Logits (M, V) of the backbone with the changed weights."""
        return self.split.logits(prompts, state)

    def state(self) -> State:
        """The weights, and the batch that is under way; the network lies in the store."""
        state = State(self.weights.tensors())
        if self._batch is not None:
            state.nest("batch", batch_state(self._batch))
        return state

    def load(self, state: State) -> None:
        """Continue from `state`; `prepare` comes first."""
        self.weights.load(state.tensors)
        self._batch = stored_batch(state, self._backbone.device)

    def remove(self) -> None:
        """Put the pristine weights back, bit for bit."""
        self.weights.restore()
        self._batch = None

    def inference_bytes(self) -> int:
        """The weights as the backbone holds them."""
        return self.weights.num_bytes

    def _fits(self, record: TrainingRecord) -> bool:
        """Whether no row of it is longer than the backbone has positions."""
        most, tokenizer = self._backbone.max_positions, self._backbone.tokenizer
        if most is None:
            return True
        prompts = (record.edit.prompt, *record.rephrases)
        texts = [f"{prompt} {record.edit.target_new}" for prompt in prompts]
        texts += [f"{each.prompt} {each.answer}" for each in record.unrelated]
        # A token holds a byte or more, but for what a tokenizer adds or spells out: nearly all rows
        # are short enough at a glance, and thousands of them would take seconds to tokenise.
        if 2 * max(len(text.encode()) for text in texts) + 8 <= most:
            return True
        rows = [tokenise(tokenizer, prompt, record.edit.target_new, end=True) for prompt in prompts]
        rows += [tokenise(tokenizer, each.prompt, each.answer) for each in record.unrelated]
        return max(len(row.ids) for row in rows) <= most

    def _factors(self, batch: EditBatch) -> dict[str, ModuleFactors]:
        """Of all edits of a batch at the weights that now stand; tokens without gradient left out.

        A token whose gradient vanishes at one module may have one at another.
        """
        parts: dict[str, list[ModuleFactors]] = defaultdict(list)
        for part in module_factors(
            self.split, self._paths, batch.tokens, batch.labels, at_scored=self._at_scored
        ):
            for path, own in part.items():
                reached = own.deltas.abs().amax(-1) > 0
                parts[path].append(ModuleFactors(*(each[reached] for each in own)))
        return {
            path: ModuleFactors(*(torch.cat(each) for each in zip(*own, strict=True)))
            for path, own in parts.items()
        }

    def _new_rule(self) -> ShiftRule:
        return self._make_rule(len(self._paths))

    def _untrained(self) -> RuledNetworks:
        """Networks and rule before any training, on the backbone's device."""
        shapes = {path: self._shape(path) for path in self._paths}
        networks = FactorNetworks(
            shapes, self._network, generator(self._settings.training_seed, "network")
        )
        return RuledNetworks(
            networks.to(self._backbone.device), self._new_rule(), self._paths, self._backbone.device
        )

    def _shape(self, path: str) -> tuple[int, int]:
        weight = self.weights.oriented(self._backbone.model.get_parameter(f"{path}.weight"))
        return weight.shape[1], weight.shape[0]

    def trainee(self, learned: Sequence[TrainingRecord]) -> Training:
        """Networks whose normalisation is that of the records that they are to learn from."""
        made = self._untrained()
        some = [record.edit for record in learned[:_NUM_NORMALISING]]
        tokenizer, device = self._backbone.tokenizer, self._backbone.device
        made.networks.normalise(
            [
                self._factors(
                    edit_batch(tokenizer, some[start : start + 64], end=True, device=device)
                )
                for start in range(0, len(some), 64)
            ]
        )
        return Training(made, self, self._settings.training)

    def problem(
        self, records: Sequence[TrainingRecord], draws: torch.Generator
    ) -> tuple[Problem, dict[str, ModuleFactors]]:
        """A problem of the edits of `records`, and their factors; the backbone is unedited."""
        problem = drawn_problem(records, self.problem_settings, self.split, draws)
        return problem, self._factors(problem.edits)

    def judged(
        self, problem: Problem, changes: Mapping[str, Tensor], *, is_training: bool
    ) -> tuple[float, dict[str, Tensor]]:
        """The loss after `changes`, and in training its gradient by each of them, (out, in)."""
        backbone = self._backbone
        size = backbone.micro_batch.at_most(ROWS_PER_PASS)
        total, gradients = 0.0, dict[str, Tensor]()
        with self.weights.shifted(changes) as parameters, backbone.micro_batch.undivided():
            for asked in filter(None, (problem.rephrases, problem.unrelated)):
                for part in asked.parts(size):
                    with torch.set_grad_enabled(is_training):
                        terms = self.split.per_token(
                            token_terms, part.tokens, part.wanted, part.weights
                        )
                        loss = terms.sum()
                    total += float(loss.detach())
                    if is_training:
                        found = torch.autograd.grad(loss, list(parameters.values()))
                        for path, own in zip(parameters, found, strict=True):
                            wide = self.weights.oriented(own).float()
                            gradients[path] = gradients[path] + wide if path in gradients else wide
        return total, gradients


def edited_paths(
    backbone: Backbone, layers: Sequence[int], modules: Sequence[Module]
) -> tuple[str, ...]:
    """Dotted paths of these modules of the FFNs; where gate and up are one weight, once.

    A family without a gate has none.

    Raises:
        ConfigError: If that leaves no module.
    """
    names = module_names(backbone.family, modules)
    return tuple(f"{backbone.layer_path(layer)}.{name}" for layer in layers for name in names)


def module_names(family: Family, modules: Sequence[Module]) -> tuple[str, ...]:
    """Dotted paths of these modules of an FFN, from its layer; see `edited_paths`.

    Raises:
        ConfigError: If there is none.
    """
    named = {"gate": family.gate, "up": family.up, "down": family.down}
    names = tuple(dict.fromkeys(filter(None, (named[module] for module in modules))))
    if not names:
        raise ConfigError(
            f"method.modules is {list(modules)}; family {family.name!r} has none of them"
        )
    return names
