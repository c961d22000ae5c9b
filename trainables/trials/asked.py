"""Tells the driver what a backbone knows of a data set, before anything is started for it.

The driver itself loads no backbone. A process of its own asks it, once: the answer lies in the
artefacts, where trials find it too.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil

from trainables.artefacts import Artefacts
from trainables.backbones.checkpoints.checkpoint import DTYPES, Checkpoint
from trainables.backbones.loading import usable_device
from trainables.edits.asking import KIND, answered, inputs_of
from trainables.edits.known import asked_facts, only_known
from trainables.edits.sources import Source
from trainables.interfaces import Json
from trainables.spec import TrialSpec
from trainables.trials.workbench import Workbench

_WEIGHTS_IN_MEMORY = 2  # times their files: half precision may be loaded in full


class Asked:
    """Restricts data sets to what backbones know of them; each pair is asked about once."""

    def __init__(self, cache: Path, tell: Callable[[str], None] = lambda stage: None) -> None:
        """Nobody is asked yet.

        Args:
            cache: Folder of embedded backbones and artefacts.
            tell: Called with what goes on, before it takes long.
        """
        self._cache, self._tell = cache, tell
        self._sources: dict[str, Source | None] = {}

    def known(
        self, spec: TrialSpec, source: Source, whole: Checkpoint, folder: Path
    ) -> Source | None:
        """`source` with what the backbone knows; None if that can be found out in a trial alone.

        Args:
            spec: A trial whose `dataset.known_only` is true.
            source: All records of its part.
            whole: The backbone's checkpoint.
            folder: Where that lies.

        Raises:
            EditingError: If the backbone knows nothing, or cannot be loaded.
        """
        key = repr((spec.dataset, spec.backbone))
        if key not in self._sources:
            self._sources[key] = self._found(spec, source, whole, folder)
        return self._sources[key]

    def _found(
        self, spec: TrialSpec, source: Source, whole: Checkpoint, folder: Path
    ) -> Source | None:
        facts = asked_facts(source.records)
        identity: dict[str, Json] = {
            "backbone": whole.name_of_answers,
            "dtype": str(DTYPES[spec.backbone.dtype]),
            "device": usable_device(),
        }
        if spec.backbone.tf32:
            identity["tf32"] = True
        artefacts = Artefacts(self._cache / "artefacts")
        state = artefacts.find(KIND, inputs_of(identity, facts))
        if state is None:
            if not _fits(folder):
                return None
            self._tell(f"asking backbone={spec.backbone.name} what it knows")
            if not _ask(spec, self._cache):
                return None
            state = artefacts.find(KIND, inputs_of(identity, facts))
        if state is None:
            return None
        known = answered(facts, state)
        return only_known(source, known, spec.dataset.name, spec.backbone.name)


def _fits(folder: Path) -> bool:
    """Whether this machine's free memory takes the weights of `folder`."""
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return bool(size * _WEIGHTS_IN_MEMORY < psutil.virtual_memory().available)


def _ask(spec: TrialSpec, cache: Path) -> bool:
    """Ask in a process that ends afterwards and gives back its memory; False if it was killed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            pool.submit(_ask_here, spec, cache).result()
        except BrokenProcessPool:
            return False
    return True


def _ask_here(spec: TrialSpec, cache: Path) -> None:
    Workbench(cache).source(spec)
