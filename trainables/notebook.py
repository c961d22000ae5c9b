"""An editor for a notebook: edit, ask, save and load again, without sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trainables.artefacts import Artefacts
from trainables.backbones.conversion.prepared import packaged_name
from trainables.bases import read_method, read_presets
from trainables.cache import default_cache
from trainables.edits.embedded import embedded_name
from trainables.errors import DataError
from trainables.interfaces import Backbone, Edit, EditMethod, EditReport, TrainingRecord
from trainables.methods import build_config, get_method, method_settings
from trainables.metrics.generation import GENERATED_TOKENS, greedy
from trainables.prompts import edit_batch, tokenise
from trainables.seeding import trial_generators
from trainables.states import read_state, snapshot, write_state


class Editor:
    """One method on one backbone."""

    def __init__(
        self,
        name: str,
        backbone: Backbone,
        *,
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
        training: Sequence[TrainingRecord] = (),
    ) -> None:
        """Attach a method to a backbone.

        Args:
            name: A file of search_spaces/method.
            backbone: Changed by edits until `remove`.
            settings: Fields of the method's Config that differ from its YAML, and from the presets
                of an embedded or packaged backbone; layers and ranks are the backbone's own.
            seed: Of everything random.
            training: Records that the method may prepare itself on, none of which is edited.

        Raises:
            ConfigError: If a setting is unknown or out of range.
        """
        values = read_method(name)
        folder = backbone.folder
        known = (embedded_name(folder) or packaged_name(folder)) if folder else None
        preset = read_presets(known, name) if known else {}
        self.settings = {**method_settings(values), **preset, **(settings or {})}  # that hold
        module = values.get("module", name)
        self._backbone = backbone
        self.method: EditMethod = get_method(module)[1](
            build_config(module, self.settings),
            backbone,
            Artefacts(default_cache() / "artefacts"),
            trial_generators(seed),
        )
        self.method.prepare(training)

    def edit(self, edits: Sequence[Edit]) -> EditReport:
        """Apply one batch of edits."""
        batch = edit_batch(self._backbone.tokenizer, edits, end=True, device=self._backbone.device)
        self.method.begin(batch)
        while not self.method.advance(max(self.method.num_steps, 1)):
            pass
        return self.method.finish()

    @torch.no_grad()
    def ask(self, prompt: str, max_tokens: int = GENERATED_TOKENS) -> str:
        """The greedy answer to a prompt, up to the end token or so many tokens."""
        tokenizer = self._backbone.tokenizer
        row = tokenise(tokenizer, prompt)
        [answer] = greedy(self.method.logits, [row], tokenizer, self._backbone.device, max_tokens)
        return str(tokenizer.decode(answer, skip_special_tokens=True)).strip()

    def save(self, path: Path | str) -> None:
        """Store the edits in one safetensors file."""
        write_state(Path(path), snapshot(self.method.state()))

    def load(self, path: Path | str) -> None:
        """Take up the edits that `save` stored, of the same method and backbone.

        Raises:
            DataError: If there is no such file.
        """
        state = read_state(Path(path))
        if state is None:
            raise DataError(f"{path} holds no saved edits")
        self.method.load(state)

    def remove(self) -> None:
        """Restore the backbone bit for bit."""
        self.method.remove()
