"""Builds the entity finder that a method's settings ask for."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from trainables.artefacts import Artefacts
from trainables.moe.entities import AnchorWords, EntityFinder, nltk_chunker
from trainables.moe.nltk_data import NltkData


class AnchorSettings(Protocol):
    """The anchor settings that several methods' Configs have."""

    @property
    def anchor_words(self) -> AnchorWords:
        """Whether question words may be anchors."""
        ...

    @property
    def nltk_data(self) -> tuple[NltkData, ...]:
        """The data of NLTK that is read; none where anchors are subjects."""
        ...


def anchor_finder(settings: AnchorSettings, tokenizer: Any, artefacts: Artefacts) -> EntityFinder:
    """A finder of the anchors that `settings` ask for; NLTK's chunker is loaded once a process.

    Raises:
        ConfigError: If NLTK's data are asked for and missing.
    """
    if "chunker" not in settings.nltk_data:
        return EntityFinder(tokenizer, None)
    words = settings.anchor_words
    load = partial(nltk_chunker, artefacts.nltk_data, words)
    return EntityFinder(tokenizer, artefacts.keep(f"nltk_chunker {words}", load))
