"""Finds, fetches and identifies the data sets of NLTK that some methods read.

Other data would give such a method other numbers: their hash is part of a trial's identity, and
without them the trial is refused. Nothing else is used in their place.

    python -m trainables.moe.nltk_data FOLDER      what `make nltk` runs
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trainables.errors import ConfigError

NltkData = Literal["chunker", "wordnet"]

FOLDER = "nltk_data"  # of the project's cache
_PACKAGES = ("averaged_perceptron_tagger_eng", "maxent_ne_chunker_tab", "words", "wordnet")
_TAGGER = "averaged_perceptron_tagger_eng"
_FILES: Mapping[NltkData, tuple[str, ...]] = {
    "chunker": (
        *(f"taggers/{_TAGGER}/{_TAGGER}.{part}.json" for part in ("weights", "tagdict", "classes")),
        *(
            f"chunkers/maxent_ne_chunker_tab/english_ace_binary/{name}"
            for name in ("weights.txt", "mapping.tab", "labels.txt", "alwayson.tab")
        ),
        "corpora/words/en-basic",
    ),
    "wordnet": (
        "corpora/wordnet/lexnames",
        *(
            f"corpora/wordnet/{name}"
            for part in ("noun", "verb", "adj", "adv")
            for name in (f"data.{part}", f"index.{part}", f"{part}.exc")
        ),
    ),
}
_WITHOUT: Mapping[NltkData, tuple[str, str]] = {
    "chunker": ("method.anchor_source is 'entity'", "method.anchor_source=subject"),
    "wordnet": ("method.meteor_synonyms is 'wordnet'", "method.meteor_synonyms=none"),
}


def look_in(folder: Path | None) -> None:
    """Let NLTK look into `folder` too, after its own places (NLTK_DATA, the user's home)."""
    import nltk

    if folder is not None and folder.is_dir() and str(folder) not in nltk.data.path:
        nltk.data.path.append(str(folder))


def missing(which: NltkData) -> ConfigError:
    """The error to raise where the data of `which` are not there."""
    setting, other = _WITHOUT[which]
    return ConfigError(
        f"{setting}; NLTK's data for it are missing: `make nltk` fetches them, {other} goes without"
    )


def identity(which: Sequence[NltkData], folder: Path | None) -> str:
    """NLTK's version and the hash of all data that are read; "" where none are.

    Args:
        which: The data that a method reads.
        folder: Where to look beside NLTK's own places.

    Raises:
        ConfigError: If some of them are not there; names the setting, and what helps.
    """
    if not which:
        return ""
    import nltk

    look_in(folder)
    digest = hashlib.sha256()
    for name in which:
        for path in _FILES[name]:
            try:
                found: Any = nltk.data.find(path)
            except LookupError:
                raise missing(name) from None
            digest.update(path.encode())
            with found.open() as file:
                digest.update(hashlib.sha256(file.read()).digest())
    return f"nltk {nltk.__version__} {digest.hexdigest()[:16]}"


def check(which: Sequence[NltkData], folder: Path | None) -> None:
    """Refuse if some data are not there; imports NLTK, which takes seconds, only if need be.

    Raises:
        ConfigError: As `identity`.
    """
    named = os.environ.get("NLTK_DATA", "").split(os.pathsep)
    places = [folder, *(Path(name) for name in named if name), Path.home() / "nltk_data"]
    for name in which:
        if not all(any(_holds(place, path) for place in places) for path in _FILES[name]):
            identity((name,), folder)  # in another of NLTK's places, or nowhere


def _holds(place: Path | None, path: str) -> bool:
    """Whether a folder of NLTK's has a file, as it is or in its package's zip file."""
    if place is None:
        return False
    if (place / path).is_file():
        return True
    group, package, _ = path.split("/", 2)
    packed = place / group / f"{package}.zip"
    try:
        with zipfile.ZipFile(packed) as archive:
            archive.getinfo(path.removeprefix(f"{group}/"))
    except (OSError, KeyError, zipfile.BadZipFile):
        return False
    return True


def fetch(folder: Path) -> None:
    """All data that some method reads, into `folder`, by NLTK's own downloader.

    Raises:
        ConfigError: If a package cannot be had; NLTK has said why.
    """
    import nltk

    folder.mkdir(parents=True, exist_ok=True)
    for package in _PACKAGES:
        if not nltk.download(package, download_dir=str(folder)):
            raise ConfigError(f"NLTK's package {package} could not be fetched into {folder}")
    identity(("chunker", "wordnet"), folder)


if __name__ == "__main__":
    try:
        fetch(Path(sys.argv[1]))
    except ConfigError as error:
        sys.exit(f"error: {error}")
