"""Keeps a process's backbone, data, evaluators and artefacts between trials; no Ray.

`Workbench.loop(spec)` turns a trial's specification into an `EditLoop`; `check_restored` proves
afterwards that the backbone is what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.ability.abilities import Abilities, abilities
from trainables.artefacts import Artefacts
from trainables.assemblies.text_encoder import sentence_prompts
from trainables.backbones.forward.split import Split
from trainables.backbones.loading import Device, load_backbone, usable_device
from trainables.backbones.pristine import Pristine
from trainables.backbones.sentences.package import ASKED
from trainables.edits.asking import known_facts
from trainables.edits.drawing import Drawn, draw
from trainables.edits.frequency import with_gece
from trainables.edits.known import asked_facts, only_known, true_facts
from trainables.edits.sources import Source, backbone_folder, open_source
from trainables.edits.stream import Reads, edit_stream
from trainables.errors import MemoryExhaustedError
from trainables.interfaces import Backbone, EditMethod, EditRecord, State
from trainables.methods import build_config, get_method
from trainables.metrics.evaluator import BATCH_SIZE, Evaluator
from trainables.parallel.ranks import Ranks
from trainables.pulse import pulse
from trainables.seeding import trial_generators
from trainables.spec import TrialSpec
from trainables.trials.learner import Learner
from trainables.trials.loop import EditLoop
from trainables.trials.packs.lockstep import apart_for
from trainables.trials.protocol import Before, EditProtocol
from trainables.trials.row_lengths import check_lengths


@dataclass
class _Loaded:
    """A backbone with the proof of its state."""

    key: tuple[Any, ...]
    backbone: Backbone
    pristine: Pristine


class Workbench:
    """Runs trials one after another in one process."""

    def __init__(
        self,
        cache: Path,
        *,
        artefact_gib: float = 10.0,
        prefix_gib: float = 2.0,
        is_sharded: bool = False,
        beside_gib: float = 0.0,
        device: Device | None = None,
    ) -> None:
        """Set up an empty bench.

        Args:
            cache: Folder of embedded backbones and artefacts, shared by processes.
            artefact_gib: Budget of the artefacts on disk, 2**30 bytes.
            prefix_gib: Budget of the hidden states held in memory, 2**30 bytes.
            is_sharded: Whether a backbone's layers are spread over all GPUs of the process.
            beside_gib: What the methods make beside the edited layers of such a backbone.
            device: Where backbones lie; None: on the GPU when there is one.
        """
        self.device = device or usable_device()
        self._is_sharded, self._beside_gib = is_sharded, beside_gib
        self._cache = cache
        self._artefacts = Artefacts(
            cache / "artefacts", max_gib=artefact_gib, prefix_gib=prefix_gib
        )
        self._ranks: Ranks | None = None
        self._loaded: _Loaded | None = None
        self._limits: dict[tuple[object, ...], int | None] = {}  # micro-batch of each method
        self._running: tuple[object, ...] = ()  # whose trial runs
        self._sources: dict[str, Source] = {}
        self._evaluators: dict[tuple[EditRecord, ...], Evaluator] = {}
        self._before: dict[tuple[object, ...], Before] = {}
        self._abilities: dict[str, Abilities] = {}

    def backbone(self, spec: TrialSpec) -> Backbone:
        """The backbone of `spec`, loaded once; another one takes its place."""
        wanted = spec.backbone
        home = _edited_layers(spec) if self._is_sharded else None
        key = (*_backbone_key(spec), home)
        if self._loaded is None or self._loaded.key != key:
            self._loaded = None  # frees the one before
            pulse().stage("loading the backbone")
            folder = backbone_folder(spec, self._cache)
            backbone = load_backbone(
                folder,
                revision=wanted.revision,
                dtype=wanted.dtype,
                home_layers=home,
                beside_gib=self._beside_gib,
                cache=self._cache,
                device=self.device,
                tf32=wanted.tf32,
            )
            backbone.micro_batch.ranks = self._ranks
            self._loaded = _Loaded(key, backbone, Pristine(backbone.model))
            self._forget_tokens()
        return self._loaded.backbone

    def source(self, spec: TrialSpec) -> Source:
        """The records of `spec`'s data set and part, read once."""
        # An embedded backbone knows but some records, and GECE ranks them by its answers.
        name = repr((spec.dataset, _backbone_key(spec)))
        if name not in self._sources:
            pulse().stage("reading the data")
            source = open_source(spec, self._cache)
            if spec.dataset.known_only:
                facts = asked_facts(source.records)
                known = known_facts(facts, self.backbone(spec), self._artefacts)
                source = only_known(source, known, spec.dataset.name, spec.backbone.name)
            if spec.dataset.frequency_band and spec.dataset.frequency_source == "gece":
                source = with_gece(source, self.backbone(spec), self._artefacts)
            self._sources[name] = source
        return self._sources[name]

    def loop(self, spec: TrialSpec, *, is_apart: bool = False) -> EditLoop:
        """A trial, ready to run, with as many rows at a time as fitted its method before.

        Args:
            spec: The trial.
            is_apart: On modules of its own, beside the trial that runs; the backbone must be
                pristine when it is made.
        """
        backbone, source, protocol = self.backbone(spec), self.source(spec), spec.protocol
        if is_apart:
            backbone = self._apart(spec)
        else:
            self._running = _method_key(spec)
            self._limit_rows(backbone, self.limit_of(spec))
        pulse().stage("drawing the edits")
        drawn = draw(spec, source)
        evaluator = self._evaluator(backbone, drawn.records)
        how = EditProtocol(
            is_rolled_back=protocol.is_rolled_back,
            target_ends_with_eos=protocol.target_ends_with_eos,
            generates=protocol.generate,
            has_curve=protocol.curve,
            has_passages=source.has_passages,
        )
        lengths = evaluator.longest_rows(ends=how.target_ends_with_eos)
        check_lengths(lengths, backbone.max_positions, spec)
        allowed = source.beside(drawn.records)
        return EditLoop(
            backbone.tokenizer,
            evaluator,
            edit_stream(
                spec,
                backbone,
                drawn,
                source,
                self._knowledge(backbone, drawn, source),
                self._prompt_reader(spec, backbone),
            ),
            how,
            self._pristine_answers(backbone, evaluator, how),
            device=backbone.device,
            to_edit=allowed.to_edit,
            abilities=self._abilities_of(spec, self.backbone(spec)),
            learner=self._learner(spec, backbone, allowed, is_apart=is_apart),
        )

    def found_once(
        self, kind: str, spec: TrialSpec, inputs: Mapping[str, Any], build: Callable[[], State]
    ) -> dict[str, Any]:
        """What was found out about the backbone of `spec`, of this or an earlier process.

        Args:
            kind: Of what is found out.
            spec: Names the backbone.
            inputs: What decides it beside the backbone.
            build: Finds it out.
        """
        told = {**self.backbone(spec).identity, **inputs}
        return dict(self._artefacts.get(kind, told, build).values)

    @property
    def ranks(self) -> Ranks | None:
        """The processes that share the rows; None: this one runs them alone."""
        return self._ranks

    @ranks.setter
    def ranks(self, ranks: Ranks | None) -> None:
        self._ranks = ranks
        if self._loaded is not None:
            self._loaded.backbone.micro_batch.ranks = ranks

    @property
    def micro_batch(self) -> int | None:
        """Most rows that pass the backbone at a time; None: as many as there are."""
        return None if self._loaded is None else self._loaded.backbone.micro_batch.limit

    def limit_of(self, spec: TrialSpec) -> int | None:
        """The micro-batch with which trials of this method fitted into memory; None: no limit."""
        return self._limits.get(_method_key(spec))

    def start_with(self, spec: TrialSpec, limit: int) -> None:
        """Run at most so many rows at a time of this method, unless memory has set a limit."""
        self._limits.setdefault(_method_key(spec), limit)

    def take_micro_batch(self, spec: TrialSpec, limit: int | None) -> None:
        """Run as many rows at a time as another process that runs `spec` does."""
        self._limits[_method_key(spec)] = limit
        self._limit_rows(self.backbone(spec), limit)

    def halve_micro_batch(self) -> int | None:
        """Run half as many rows at a time from now on, in all trials of the method that runs.

        Returns:
            The new limit; None if no trial has begun, so that there is nothing to halve.

        Raises:
            MemoryExhaustedError: If it was one row already.
        """
        if self._loaded is None or not self._running:
            return None
        halved = self._loaded.backbone.micro_batch.halve()
        if not halved:
            raise MemoryExhaustedError(
                "out of memory with micro_batch=1: a single row does not fit beside the weights"
            )
        self._limits[self._running] = halved
        self._forget_tokens()  # their batches are as large as the limit was
        return halved

    def _limit_rows(self, backbone: Backbone, limit: int | None) -> None:
        if backbone.micro_batch.limit != limit:
            backbone.micro_batch.limit = limit
            self._forget_tokens()

    def _forget_tokens(self) -> None:
        """Drop what was made for another backbone, or for another number of rows at a time."""
        self._evaluators.clear()
        self._abilities.clear()

    def free_caches(self) -> None:
        """Drop hidden states and artefacts, which can be made or read again."""
        self._artefacts.free()

    def check_restored(self) -> None:
        """Compare the backbone with what it was when loaded.

        Raises:
            RestoreError: If it differs; the process must not run another trial.
        """
        if self._loaded is not None:
            self._loaded.pristine.check()

    def _learner(
        self, spec: TrialSpec, backbone: Backbone, source: Source, *, is_apart: bool
    ) -> Learner:
        config = build_config(spec.method.module, spec.method.settings)
        _, method_class = get_method(spec.method.module)

        def make(on: Backbone) -> EditMethod:
            seeds = trial_generators(spec.seed)
            method: EditMethod = method_class(config, on, self._artefacts, seeds)
            pulse().stage("preparing")
            method.prepare(source.training)
            return method

        is_shared = self._is_sharded or self._ranks is not None  # by GPUs or processes
        has_room = self.limit_of(spec) is None and "edit_layer" in spec.method.settings
        may_be_each = has_room and not is_shared and not is_apart
        make_apart = (lambda: make(self._apart(spec))) if may_be_each else None
        return Learner(lambda: make(backbone), make_apart)

    def _apart(self, spec: TrialSpec) -> Backbone:
        """The backbone, pristine, with a layer of its own to be edited."""
        _, method_class = get_method(spec.method.module)
        return apart_for(method_class, self.backbone(spec), int(spec.method.settings["edit_layer"]))

    def _prompt_reader(self, spec: TrialSpec, backbone: Backbone) -> Reads | None:
        """What clusters the prompts of a stream whose router reads them with another model."""
        if spec.method.settings.get("embedding") != ASKED:
            return None

        def read(prompts: Sequence[str]) -> NDArray[np.floating]:
            return sentence_prompts(backbone, self._artefacts, "embedding").texts(prompts).numpy()

        return read

    def _knowledge(self, backbone: Backbone, drawn: Drawn, source: Source) -> dict[str, float]:
        """What the backbone knew of the data before any edit, for the trial's row.

        `known_share` is that of the drawn edits whose true answer is stated.
        """
        facts = true_facts(drawn.records)
        if not facts:
            return {}
        if source.knowledge is None:
            known = known_facts(facts, backbone, self._artefacts)
            return {"known_share": len(known) / len(facts)}
        found = source.knowledge  # of what was drawn it knows all
        return {
            "known_share": 1.0,
            "known_facts": float(found.num_known),
            "facts_asked": float(found.num_facts),
        }

    def _evaluator(self, backbone: Backbone, records: Sequence[EditRecord]) -> Evaluator:
        key = tuple(records)  # whole: two files may name different records alike
        if key not in self._evaluators:
            self._evaluators[key] = Evaluator(
                backbone.tokenizer,
                records,
                batch_size=backbone.micro_batch.at_most(BATCH_SIZE),
                max_positions=backbone.max_positions,
                device=backbone.device,
            )
        return self._evaluators[key]

    def _abilities_of(self, spec: TrialSpec, backbone: Backbone) -> Abilities | None:
        """The tasks that a trial is asked beside its edits; None without any."""
        wanted = spec.evaluate
        if not wanted.ability:
            return None
        if (key := repr(wanted)) not in self._abilities:
            self._abilities[key] = abilities(wanted, backbone, self._artefacts)
        return self._abilities[key]

    def _pristine_answers(
        self, backbone: Backbone, evaluator: Evaluator, how: EditProtocol
    ) -> Before:
        """What the untouched backbone answers, once per backbone and set of prompts."""
        generates = how.generates
        limit = evaluator.generation_limit if generates else None
        key = (backbone.memory_key, evaluator.digest, limit, how.has_passages)
        if key not in self._before:
            split = Split(backbone, backbone.num_layers - 1, self._artefacts.prefix_cache)
            chosen = evaluator.select()
            edits = evaluator.select(scores=["reliability"]) if how.has_passages else []

            def build() -> State:
                with backbone.micro_batch.undivided():
                    return answered()

            def answered() -> State:
                pulse().stage("asking the unedited backbone")
                answers = evaluator.answers(split.logits, chosen)
                grown = evaluator.generations(split.logits, chosen, answers) if generates else {}
                measured = evaluator.perplexities(split.logits, edits)
                return State(
                    values={
                        "answers": [list(answers[index]) for index in chosen],
                        "generated": [list(grown[i]) for i in chosen] if generates else None,
                        "perplexities": [measured[index] for index in edits],
                    }
                )

            inputs = backbone.identity | {"probes": evaluator.digest, "generates": generates}
            if limit is not None:
                inputs |= {"generation_limit": limit, "form": "tokens"}
            if how.has_passages:
                inputs["has_passages"] = True
            values: dict[str, Any] = self._artefacts.get("answers", inputs, build).values
            grown = values.get("generated")  # older artefacts without it are of no generation
            self._before[key] = Before(
                {index: tuple(ids) for index, ids in zip(chosen, values["answers"], strict=True)},
                None if grown is None else dict(zip(chosen, map(tuple, grown), strict=True)),
                dict(zip(edits, values["perplexities"], strict=True)) if edits else None,
            )
        return self._before[key]


def _backbone_key(spec: TrialSpec) -> tuple[Any, ...]:
    """All settings that decide the weights in memory."""
    # An embedded backbone is trained on the data set's file where it names none itself.
    return (spec.backbone, spec.dataset.path if spec.backbone.is_embedded else None)


def _method_key(spec: TrialSpec) -> tuple[Any, ...]:
    """What trials have in common that need about as much memory for a row."""
    return (*_backbone_key(spec), spec.method.name)


def _edited_layers(spec: TrialSpec) -> tuple[int, ...]:
    """Layers that a method reads or changes; its tensors stand beside them."""
    settings = spec.method.settings
    lists = (settings.get(name) or () for name in ("layers", "gate_layers"))
    found = [settings.get("edit_layer"), *(layer for each in lists for layer in each)]
    return tuple(sorted({int(layer) for layer in found if layer is not None}))
