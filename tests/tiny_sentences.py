"""A tiny random sentence encoder, in the form of the real one's file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from trainables.artefacts import Artefacts
from trainables.backbones.sentences.encoder import SentenceEncoder, read_encoder

WORDS = ("the", "capital", "of", "fooland", "barland", "is", "who", "wrote", "long", "tide", "?")
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
SIZE = 16


def tiny_bert(seed: int = 0) -> BertModel:
    """Two layers of width 16, drawn at random."""
    config = BertConfig(
        vocab_size=len(MARKS) + len(WORDS),
        hidden_size=SIZE,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertModel(config, add_pooling_layer=True)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def tiny_words() -> Tokenizer:
    """Whole words; as the real file it asks for padding to a fixed length and cuts at another."""
    vocabulary = {word: number for number, word in enumerate((*MARKS, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.enable_padding(length=12)
    tokenizer.enable_truncation(5)
    return tokenizer


def write_encoder(path: Path, *, without: str = "", **changes: Any) -> Path:
    """The zip file; `without` a member, with `changes` in its configuration."""
    model = tiny_bert()
    files = {
        "config.json": json.dumps({**model.config.to_dict(), **changes}).encode(),
        "model.safetensors": save({k: v.contiguous() for k, v in model.state_dict().items()}),
        "tokenizer.json": tiny_words().to_str().encode(),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            if name != without:
                archive.writestr(name, content)
    return path


def tiny_encoder(folder: Path, max_tokens: int = 24) -> SentenceEncoder:
    """The encoder in such a file."""
    return read_encoder(write_encoder(folder / "model.zip"), max_tokens)


def with_sentences(artefacts: Artefacts, folder: Path) -> Artefacts:
    """`artefacts` that keep the tiny encoder where a trial would load the real one."""
    artefacts.keep("sentence_encoder", lambda: tiny_encoder(folder))
    return artefacts
