"""Finds the named entities of a prompt, as token positions, from the prompt's tokens alone.

Source: MEMoE v1 (arXiv:2405.19086), Section 3.2, and LEMoE (arXiv:2406.20030v1), Appendix B.4:
the NLTK tool extracts named entities; several entities are averaged.

Choices where the papers are silent:
- NLTK's binary chunker on the decoded prompt: what an entity is, not of which class. Without its
  data nothing stands in for it: see moe/nltk_data.py.
- It takes a lone "Which" or "Whom" for an entity, in 573 of 4,352 prompts of ZsRE and CounterFact.
  `content` drops what consists of question words alone (titles begin with such words too);
  `as_printed` keeps it.
- Where subjects are asked for instead, those of all edits handed over so far are looked for in the
  prompt, the longest first. An edit's prompt and a question about it are thus read alike; the
  subject that belongs to a question is never asked for, because at inference it is not known.
- Where nothing is found, the whole prompt stands in.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.interfaces import PromptBatch
from trainables.moe.nltk_data import look_in, missing

AnchorSource = Literal["entity", "subject"]
AnchorWords = Literal["content", "as_printed"]
Source = Literal["entity", "subject", "sentence"]
Span = tuple[int, int]  # first character, one past the last
Chunker = Callable[[str], Sequence[Span]]

_QUESTION_WORDS = frozenset(
    ("which", "what", "who", "whom", "whose", "where", "when", "why", "how", "whatever", "whoever")
)


class EntityFinder:
    """Finds entities and remembers them per prompt."""

    def __init__(
        self,
        tokenizer: Any,
        chunker: Chunker | None,
    ) -> None:
        """No entity is looked for yet.

        Args:
            tokenizer: Decodes prompts.
            chunker: Finds entities; None: known subjects are looked for instead.
        """
        self._tokenizer = tokenizer
        self._chunk = chunker
        self._subjects: list[str] = []
        self._found: dict[tuple[int, ...], tuple[Source, list[list[int]]]] = {}

    @property
    def uses_chunker(self) -> bool:
        """False when known subjects are found instead."""
        return self._chunk is not None

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subjects handed over so far, longest first."""
        return tuple(self._subjects)

    def add_subjects(self, subjects: Iterable[str | None]) -> None:
        """Remember the subjects of edits, for where they are looked for."""
        known = {*self._subjects, *(subject for subject in subjects if subject)}
        if len(known) > len(self._subjects):
            self._subjects = sorted(known, key=lambda subject: (-len(subject), subject))
            if not self.uses_chunker:
                self._found.clear()

    def forget_subjects(self) -> None:
        """Know no subject."""
        self._subjects = []
        if not self.uses_chunker:
            self._found.clear()

    def find(self, ids: Sequence[int]) -> tuple[Source, list[list[int]]]:
        """How the entities were found, and for each one the indices of its tokens in `ids`."""
        key = tuple(ids)
        if key not in self._found:
            self._found[key] = self._search(key)
        return self._found[key]

    def embeddings(self, prompts: PromptBatch, embedded: Tensor) -> tuple[Tensor, list[Source]]:
        """Mean over a prompt's entities of the mean over their tokens, (B, D), and the sources.

        Args:
            prompts: Only their prompt tokens are read.
            embedded: Embeddings of all tokens, (B, T, D).
        """
        means, sources = [], []
        for row, mask in enumerate(prompts.prompt_mask):
            own = embedded[row][mask]
            source, entities = self.find(prompts.input_ids[row][mask].tolist())
            means.append(torch.stack([own[tokens].mean(0) for tokens in entities]).mean(0))
            sources.append(source)
        return torch.stack(means), sources

    def _search(self, ids: tuple[int, ...]) -> tuple[Source, list[list[int]]]:
        text, bounds = self._decode(list(ids))
        source: Source = "entity" if self._chunk is not None else "subject"
        spans = self._chunk(text) if self._chunk is not None else self._subject_spans(text)
        entities = [
            tokens
            for first, last in spans
            if (tokens := [i for i, (a, b) in enumerate(bounds) if a < last and b > first])
        ]
        return (source, entities) if entities else ("sentence", [list(range(len(ids)))])

    def _subject_spans(self, text: str) -> Sequence[Span]:
        for subject in self._subjects:
            # Some tokenizers, such as Qwen's, compose letters with their accents first.
            for written in (subject, unicodedata.normalize("NFC", subject)):
                begin = text.rfind(written)
                if begin >= 0:
                    return [(begin, begin + len(written))]
        return []

    def _decode(self, ids: list[int]) -> tuple[str, list[Span]]:
        """The prompt's text and the characters of each token.

        Prefixes are decoded instead of tokenising the text again, which need not give these tokens.
        A token that is one byte of a letter has that letter, as every other byte of it.
        """
        prefixes = [
            self._tokenizer.decode(
                ids[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            for stop in range(1, len(ids) + 1)
        ]
        text = prefixes[-1] if prefixes else ""
        # A prefix that ends inside a letter has a stand-in there, which the whole text has not.
        agreed = [0, *(_shared(prefix, text) for prefix in prefixes)]
        stops = [
            whole + (len(prefix) > whole)
            for prefix, whole in zip(prefixes, agreed[1:], strict=True)
        ]
        return text, list(zip(agreed, stops, strict=False))


def _shared(prefix: str, text: str) -> int:
    """Length of the beginning that both have in common."""
    if text.startswith(prefix):
        return len(prefix)
    pairs = zip(prefix, text, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def nltk_chunker(folder: Path | None = None, words: AnchorWords = "content") -> Chunker:
    """From a text to the spans of its named entities, remembered; two seconds to load.

    Args:
        folder: Where to look for NLTK's data beside NLTK's own places.
        words: Whether question words alone are an entity.

    Raises:
        ConfigError: If NLTK's data are missing.
    """
    from nltk.chunk import ne_chunker
    from nltk.corpus import words as word_list
    from nltk.tag import PerceptronTagger
    from nltk.tokenize import NLTKWordTokenizer

    look_in(folder)
    try:
        tagger, chunker = PerceptronTagger(), ne_chunker("binary")
        word_list.ensure_loaded()  # read by the chunker, but not before the first text
    except LookupError:
        raise missing("chunker") from None
    tokenizer = NLTKWordTokenizer()

    @cache
    def spans(text: str) -> tuple[Span, ...]:
        bounds = list(tokenizer.span_tokenize(text))
        if not bounds:
            return ()
        tree = chunker.parse(tagger.tag([text[first:last] for first, last in bounds]))
        found: list[Span] = []
        index = 0
        for node in tree:
            length = len(node.leaves()) if hasattr(node, "label") else 1
            entity = bounds[index : index + length] if hasattr(node, "label") else []
            index += length
            if words == "content" and all(_is_question_word(text, span) for span in entity):
                continue
            if entity:
                found.append((entity[0][0], entity[-1][1]))
        return tuple(found)

    return spans


def _is_question_word(text: str, span: Span) -> bool:
    return text[slice(*span)].lower() in _QUESTION_WORDS
