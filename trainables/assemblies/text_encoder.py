"""Embeds prompts by what they say: with the sentence encoder, or with the backbone's own table.

Two ways for methods that look something up by a text: `sentence` is the small pretrained model of
`backbones/sentences`, `backbone` the mean of the prompt's input embeddings, without a download.
Only prompt tokens count, as a decision must not see the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from trainables.artefacts import Artefacts
from trainables.assemblies.anchor_finder import AnchorSettings, anchor_finder
from trainables.backbones.sentences.encoder import SentenceEncoder, read_encoder
from trainables.backbones.sentences.package import encoder_file, encoder_spec
from trainables.interfaces import Backbone, Json, PromptBatch
from trainables.moe.embeddings import PromptEmbedder
from trainables.prompts import prompt_batch, tokenise

EncoderName: TypeAlias = Literal["sentence", "backbone"]
_MOST_ROWS = 256  # texts that are tokenised and embedded at a time


class EmbedderSettings(AnchorSettings, Protocol):
    """What a Config says of the way in which its router reads prompts."""

    @property
    def uses_entities(self) -> bool:
        """Whether by their entities or subjects."""
        ...

    @property
    def uses_sentences(self) -> bool:
        """Whether by the sentence encoder."""
        ...


class SentencePrompts:
    """Embeds the prompts of token rows with the sentence encoder."""

    def __init__(self, encoder: SentenceEncoder, tokenizer: Any) -> None:
        """`tokenizer` is that of the rows: their text is read back."""
        self._encoder, self._tokenizer = encoder, tokenizer

    @property
    def size(self) -> int:
        """Numbers of an embedding, D."""
        return self._encoder.size

    @property
    def num_bytes(self) -> int:
        """Of the encoder's weights."""
        return self._encoder.num_bytes

    def __call__(self, prompts: PromptBatch) -> Tensor:
        """Embeddings (B, D) of length 1, on the device of the rows."""
        lengths = prompts.on_host.prompt_lengths.tolist()
        texts = [
            self._text(ids[:length]) for ids, length in zip(prompts.real_ids, lengths, strict=True)
        ]
        return self._encoder.embed(texts).to(prompts.input_ids.device)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (N, D) of prompts as the rows would give them, on the CPU."""
        rows = (tokenise(self._tokenizer, prompt).ids for prompt in prompts)
        return self._encoder.embed([self._text(ids) for ids in rows])

    def _text(self, ids: Sequence[int] | Tensor) -> str:
        """What tokens of a prompt say."""
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        ).strip()


class TextEncoder:
    """Embeds prompts and texts alike, so that a cosine tells how near they are.

    Attributes:
        identity: All that decides its numbers, but for the backbone.
        size: Numbers of an embedding, D.
        num_bytes: Of what it holds beside the backbone.
    """

    def __init__(self, name: EncoderName, backbone: Backbone, artefacts: Artefacts) -> None:
        """Load the sentence encoder if it is asked for, once in a process.

        Raises:
            BackboneError: If it cannot be had.
        """
        self._backbone = backbone
        sentences = None
        if name == "sentence":
            sentences = sentence_prompts(backbone, artefacts, "encoder")
        self._embedder = PromptEmbedder(backbone.embedding, None, sentences)
        self.size = sentences.size if sentences else backbone.hidden_size
        self.num_bytes = sentences.num_bytes if sentences else 0  # beside the backbone
        self.identity: dict[str, Json] = {"encoder": name}
        if sentences:
            self.identity["sentences"] = encoder_spec().identity

    def prompts(self, prompts: PromptBatch) -> Tensor:
        """Embeddings of the prompts of token rows, (B, D) float32, not centred."""
        return self._embedder.instance(prompts)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts, (N, D) float32, as if each were a prompt."""
        tokenizer, device = self._backbone.tokenizer, self._backbone.device
        parts = [
            self.prompts(prompt_batch(tokenizer, texts[start : start + _MOST_ROWS], device))
            for start in range(0, len(texts), _MOST_ROWS)
        ]
        return torch.cat(parts) if parts else torch.empty(0, self.size, device=device)

    def centre(self, texts: Sequence[str] = ()) -> Tensor:
        """What all texts share, (D,), to be taken from each before a cosine.

        Mean input embeddings have much in common, so that without it all cosines are close to 1:
        the mean over `texts`, or that of the table where there are none. Of sentences it is 0, as
        they were trained to be compared as they are.
        """
        has_texts = bool(texts) and not self._embedder.reads_sentences
        return self.texts(texts).mean(0) if has_texts else self._embedder.middle()


def sentence_prompts(backbone: Backbone, artefacts: Artefacts, key: str) -> SentencePrompts:
    """Embeds prompts with the sentence encoder; it is fetched on first use.

    Args:
        backbone: Whose tokenizer made the rows.
        artefacts: Keeps the encoder in this process.
        key: The setting that asks for it.

    Raises:
        BackboneError: If it cannot be had.
    """

    def load() -> SentenceEncoder:
        spec = encoder_spec()
        return read_encoder(encoder_file(spec, artefacts.cache, key), spec.max_tokens)

    return SentencePrompts(artefacts.keep("sentence_encoder", load), backbone.tokenizer)


def prompt_embedder(
    settings: EmbedderSettings, backbone: Backbone, artefacts: Artefacts
) -> PromptEmbedder:
    """What embeds prompts for a router, as `settings` ask.

    Raises:
        ConfigError: If NLTK's data are asked for and missing.
        BackboneError: If the sentence encoder is asked for and cannot be had.
    """
    finder = sentences = None
    if settings.uses_entities:
        finder = anchor_finder(settings, backbone.tokenizer, artefacts)
    if settings.uses_sentences:
        sentences = sentence_prompts(backbone, artefacts, "embedding")
    return PromptEmbedder(backbone.embedding, finder, sentences)
