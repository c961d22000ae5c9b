"""What can be known of a trial before Ray starts: settings fit, backbone and data are there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainables.backbones.loading import fingerprint
from trainables.edit_stream import draw
from trainables.methods import build_config, get_version, method_settings
from trainables.sources import Source, backbone_folder, open_source

LEAST_KNOWN = 0.3  # share of locality questions below which locality says little


class Validator:
    """Checks what can be known before Ray starts, and says what specifications mean.

    Each backbone is built or found once, each data set read once, each draw tried once.
    """

    def __init__(
        self, cache: Path, progress: Callable[[int, int, float], None] | None = None
    ) -> None:
        """Nothing is read yet; `progress` hears of an embedded backbone's training."""
        self._cache, self._progress = cache, progress
        self._fingerprints: dict[str, str] = {}
        self._sources: dict[str, Source] = {}
        self._drawn: set[str] = set()
        self.excluded: list[str] = []  # records left out, with file, line and reason
        self.warnings: list[str] = []  # what a reader of the table should know before the start

    def validate(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """What the driver must know of one specification that can work.

        Returns:
            backbone_fingerprint, dataset_digest, method_version, and counts of the data.

        Raises:
            EditingError: Naming the first setting that cannot work.
        """
        module = spec["method"]["module"]
        build_config(module, method_settings(spec["method"]))
        backbone = repr(sorted(spec["backbone"].items(), key=str))
        if backbone not in self._fingerprints:
            model = backbone_folder(spec, self._cache, self._progress)
            self._fingerprints[backbone] = (
                fingerprint(Path(model))
                if Path(model).is_dir()
                else f"{model}@{spec['backbone'].get('revision')}"
            )
        data = repr((sorted(spec["dataset"].items(), key=str), backbone))
        if data not in self._sources:
            self._sources[data] = open_source(spec, self._cache)
            self._note(self._sources[data], spec)
        source = self._sources[data]
        draws = repr((data, sorted(spec["protocol"].items(), key=str), spec["seed"]))
        if draws not in self._drawn:
            draw(spec, source)
            self._drawn.add(draws)
        return {
            "backbone_fingerprint": self._fingerprints[backbone],
            "dataset_digest": _with_texts(source.digest, spec["method"]),
            "method_version": get_version(module),
            "counts": {
                "count.excluded": len(source.excluded),
                "count.subject_absent_in_data": source.num_subject_absent,
            },
        }

    def _note(self, source: Source, spec: Mapping[str, Any]) -> None:
        name = spec["dataset"]["name"]
        if source.excluded:
            self.excluded += source.excluded
            self.warnings.append(
                f"dataset={name}: {len(source.excluded)} records are left out in every arm"
            )
        known = source.locality_known
        if known is not None and known < LEAST_KNOWN:
            self.warnings.append(
                f"backbone={spec['backbone']['name']} answers {known:.0%} of the locality "
                f"questions of dataset={name}: below {LEAST_KNOWN:.0%}, locality compares guesses"
            )


def _with_texts(digest: str, method: Mapping[str, Any]) -> str:
    """`digest` of the data, together with the text files that a method's settings name.

    A text counts by its content: the same path may hold another one tomorrow.
    """
    named = sorted(key for key in method if key.endswith("_text") and method[key])
    if not named:
        return digest
    together = hashlib.sha256(digest.encode())
    for key in named:
        with Path(str(method[key])).open("rb") as file:
            together.update(hashlib.file_digest(file, "sha256").digest())
    return together.hexdigest()
