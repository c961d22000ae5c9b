"""What can be known of a trial before Ray starts: settings fit, backbone and data are there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainables.backbones.loading import fingerprint
from trainables.data_check import DataCheck
from trainables.methods import build_config, get_version, method_settings
from trainables.sources import backbone_folder


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
        self._data = DataCheck(cache)
        self.warnings: list[str] = []  # what a reader of the table should know before the start

    @property
    def excluded(self) -> list[str]:
        """Records left out, with file, line and reason."""
        return self._data.excluded

    def check_data(self, spec: Mapping[str, Any]) -> None:
        """Read the data of a specification and try its draw; no backbone is trained for it.

        Raises:
            EditingError: Naming the first setting that cannot work.
        """
        self.warnings += self._data.check(spec)

    def validate(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """What the driver must know of one specification that can work.

        Returns:
            backbone_fingerprint, dataset_digest, method_version, and counts of the data.

        Raises:
            EditingError: Naming the first setting that cannot work.
        """
        module = spec["method"]["module"]
        build_config(module, method_settings(spec["method"]))
        self.check_data(spec)  # before two minutes of training
        backbone = repr(sorted(spec["backbone"].items(), key=str))
        if backbone not in self._fingerprints:
            model = backbone_folder(spec, self._cache, self._progress)
            self._fingerprints[backbone] = (
                fingerprint(Path(model))
                if Path(model).is_dir()
                else f"{model}@{spec['backbone'].get('revision')}"
            )
        self.warnings += self._data.check(spec, trains=True)
        source = self._data.source(spec)
        return {
            "backbone_fingerprint": self._fingerprints[backbone],
            "dataset_digest": _with_texts(source.digest, spec["method"]),
            "method_version": get_version(module),
            "counts": {
                "count.excluded": len(source.excluded),
                "count.subject_absent_in_data": source.num_subject_absent,
            },
        }


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
