"""Checks before Ray starts that a trial's settings fit and its backbone and data are there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainables.ability import definitions
from trainables.backbones.checkpoints.checkpoint import Checkpoint, examine
from trainables.backbones.checkpoints.hub import checkpoint_folder
from trainables.backbones.families import family_of
from trainables.backbones.sentences.package import asking_setting, encoder_file, encoder_spec
from trainables.edits.data_check import DataCheck
from trainables.edits.drawing import draw
from trainables.edits.sources import Source, backbone_folder
from trainables.errors import BackboneError
from trainables.interfaces import Family
from trainables.methods import build_config, check_family, get_version
from trainables.metrics.generation import VERSION as GENERATION_VERSION
from trainables.moe import nltk_data
from trainables.moe.nltk_data import NltkData
from trainables.spec import MethodSpec, TrialSpec
from trainables.trials.asked import Asked
from trainables.trials.harness_data import check_harness_data
from trainables.trials.row_lengths import DriverLengths, check_lengths


class Validator:
    """Checks specifications before Ray starts, and tells the driver what they stand for.

    Each backbone is built or found once, each data set read once, each draw tried once.
    """

    def __init__(
        self,
        cache: Path,
        progress: Callable[[int, int, float], None] | None = None,
        compared: Sequence[str] = (),
        told: Callable[[str, float], None] | None = None,
        asked: Asked | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            cache: Folder of embedded backbones and artefacts.
            progress: Told how an embedded backbone's training goes on.
            compared: Numbers of a trial that are compared, see `DataCheck`.
            told: Told what is fetched or converted, and which share of it is done.
            asked: Finds out what backbones know, where `dataset.known_only` is true; None: each
                trial finds it out itself.
        """
        self._cache, self._progress, self._told = cache, progress, told
        self._checkpoints: dict[str, Checkpoint] = {}
        self._nltk_data: dict[tuple[NltkData, ...], str] = {}
        self._has_encoder = False
        self._data = DataCheck(cache, compared)
        self._asked = asked
        self._folders: dict[str, Path] = {}
        self._families: dict[str, Family] = {}
        self._lengths: dict[str, DriverLengths] = {}
        self._measured: set[str] = set()  # draws whose rows fit
        self._ability_digests: dict[str, str] = {}
        self.warnings: list[str] = []  # what a reader of the table should know before the start

    @property
    def excluded(self) -> list[str]:
        """Records left out, with file, line and reason."""
        return self._data.excluded

    def check_data(self, spec: TrialSpec) -> None:
        """Read the data of a specification and try its draw; no backbone is trained for it.

        Raises:
            EditingError: Naming the first setting that cannot work.
        """
        self.warnings += self._data.check(spec)

    def validate(self, spec: TrialSpec) -> dict[str, Any]:
        """What the driver must know of one specification that can work.

        Returns:
            backbone_fingerprint, tokenizer, dataset_digest, method_version, generation_version
            (None where it decides nothing), method_data (which data of NLTK, or which sentence
            encoder, its settings make the method read), ability (the tasks that are asked, by
            hash), and counts of the data.

        Raises:
            EditingError: Naming the first setting that cannot work.
        """
        module = spec.method.module
        config = build_config(module, spec.method.settings)
        method_data = self._method_data(config)
        self.check_data(spec)  # before two minutes of training
        backbone = repr(spec.backbone)
        if backbone not in self._checkpoints:
            self._checkpoints[backbone], folder = self._examined(spec)
            self._lengths[backbone] = DriverLengths(folder)
            self._folders[backbone] = folder
            self._families[backbone] = family_of(folder)
        whole = self._checkpoints[backbone]
        check_family(module, self._families[backbone], config)
        _check_end_token(spec, whole)
        self.warnings += self._data.check(spec, trains=True)
        source = self._data.source(spec)
        drawn_from = source
        if spec.dataset.known_only and self._asked is not None:
            known = self._asked.known(spec, source, whole, self._folders[backbone])
            self._warn_of(spec, known)
            drawn_from = known or source
        self._check_lengths(spec, drawn_from, self._lengths[backbone])
        return {
            "backbone_fingerprint": whole.fingerprint,
            "tokenizer": whole.tokenizer,
            "dataset_digest": _with_texts(source.digest, spec.method),
            "method_version": get_version(module),
            "generation_version": GENERATION_VERSION if spec.protocol.generate else None,
            "method_data": method_data,
            "ability": self._ability(spec),
            "counts": {
                "count.excluded": len(source.excluded),
                "count.subject_absent_in_data": source.num_subject_absent,
            },
        }

    def _ability(self, spec: TrialSpec) -> str:
        """The tasks that a trial is asked, by hash; their data are looked for once."""
        key = repr(spec.evaluate)
        if key not in self._ability_digests:
            check_harness_data(spec.evaluate)
            self._ability_digests[key] = definitions.digest(spec.evaluate)
        return self._ability_digests[key]

    def _warn_of(self, spec: TrialSpec, source: Source | None) -> None:
        """Say once what a backbone knows of a data set."""
        if source is None or source.knowledge is None:
            return
        text = (
            f"backbone={spec.backbone.name} knows {source.knowledge} of "
            f"dataset={spec.dataset.name}, dataset.part={spec.dataset.part}; the others are left "
            "out (dataset.known_only=true)"
        )
        if text not in self.warnings:
            self.warnings.append(text)

    def _examined(self, spec: TrialSpec) -> tuple[Checkpoint, Path]:
        """The checkpoint of a specification, within the range of its dtype, and its folder."""
        wanted = spec.backbone
        model = backbone_folder(spec, self._cache, self._progress, self._told)
        folder = checkpoint_folder(model, wanted.revision)
        try:
            whole = examine(folder, self._cache)
        except BackboneError as error:
            if model == wanted.model:  # the user's own
                raise
            how = "trained" if wanted.is_embedded else "made"
            raise BackboneError(f"{error}; without that folder it is {how} anew") from error
        whole.check_range(folder, wanted.dtype)
        if whole.adapter:
            self.warnings.append(
                f"backbone.model={wanted.model}: {whole.adapter} beside the weights is not "
                "applied; merge the adapter into the weights to edit what it makes of them"
            )
        return whole, folder

    def _method_data(self, config: Any) -> str:
        """What the method reads besides the data set, by hash; fetched if it is not there yet."""
        return " ".join(filter(None, (self._nltk_identity(config), self._encoder_identity(config))))

    def _encoder_identity(self, config: Any) -> str:
        if (key := asking_setting(vars(config))) is None:
            return ""
        spec = encoder_spec()
        if not self._has_encoder:
            encoder_file(spec, self._cache, key, self._told or (lambda what, share: None))
            self._has_encoder = True
        return spec.identity

    def _nltk_identity(self, config: Any) -> str:
        needed: tuple[NltkData, ...] = getattr(config, "nltk_data", ())
        if needed not in self._nltk_data:
            self._nltk_data[needed] = nltk_data.identity(needed, self._cache / nltk_data.FOLDER)
        return self._nltk_data[needed]

    def _check_lengths(self, spec: TrialSpec, source: Source, own: DriverLengths) -> None:
        key = repr((spec.dataset, spec.backbone, spec.protocol, spec.seed))
        if key in self._measured:
            return
        records = draw(spec, source).records
        check_lengths(own.surely_longest(records), own.max_positions, spec)
        self._measured.add(key)


def _check_end_token(spec: TrialSpec, whole: Checkpoint) -> None:
    """Raises BackboneError if what is asked for needs an end token that the tokenizer lacks."""
    asked = {
        "target_ends_with_eos": spec.protocol.target_ends_with_eos,
        "generate": spec.protocol.generate,
    }
    wanted = [key for key, is_asked in asked.items() if is_asked]
    if wanted and not whole.has_end_token:
        raise BackboneError(
            f"protocol.{wanted[0]}=true: the tokenizer of backbone.model="
            f"{spec.backbone.model} has no end token (eos_token in tokenizer_config.json)"
        )


def _with_texts(digest: str, method: MethodSpec) -> str:
    """`digest` of the data, together with the text files that a method's settings name.

    A text counts by its content: the same path may hold another one tomorrow.
    """
    named = sorted(key for key, text in method.settings.items() if key.endswith("_text") and text)
    if not named:
        return digest
    together = hashlib.sha256(digest.encode())
    for key in named:
        with Path(str(method.settings[key])).open("rb") as file:
            together.update(hashlib.file_digest(file, "sha256").digest())
    return together.hexdigest()
