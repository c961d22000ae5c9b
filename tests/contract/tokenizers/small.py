"""Small tokenizers that differ as real ones do in how they treat blanks, digits and ends."""

from __future__ import annotations

import json
from collections.abc import Callable

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

# What the names and numbers of TEXTS are cut into is learned from repetition.
TEXTS = (
    "The capital of Fooland is Bar City in 1998.",
    "Where was Ada Quell born? Vesper, 2004",
    "Ada Quell's sister works for Lumen Works in Oslo Bay.",
    "Who wrote The Long Tide? Ivo Marsh of Oslo Bay",
    "Who is Antonín Holý? Zdeněk 漢字",
)
_MARKS = ["<pad>", "<s>", "</s>", "<unk>"]


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's: a blank is the first letter of the word behind it; nothing is added."""
    return _trained(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())


def digits_singly() -> PreTrainedTokenizerFast:
    """As SmolLM2's and Qwen's: digits one by one, the blank before a number a token of its own."""
    cut = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return _trained(cut, decoders.ByteLevel())


def blank_as_sign() -> PreTrainedTokenizerFast:
    """As LLaMA-2's: a sign stands for each blank and in front of the text; a begin token."""
    cut = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement="▁")])
    return _trained(cut, decoder, template="<s> $A", byte_fallback=True)


def blank_in_text() -> PreTrainedTokenizerFast:
    """As LLaMA-2's file: the sign is written into the text and in front of it; a begin token."""
    strip = decoders.Strip(content=" ", left=1)
    return _signed([normalizers.Prepend("▁")], [strip])


def blank_in_text_alone() -> PreTrainedTokenizerFast:
    """As Gemma-3's: the sign is written into the text, not in front of it; a begin token."""
    return _signed([], [])


def _signed(
    before: list[normalizers.Normalizer], behind: list[decoders.Decoder]
) -> PreTrainedTokenizerFast:
    spelled = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return _trained(
        pre_tokenizers.Split(Regex("▁?[^▁]+|▁+"), "isolated"),
        decoders.Sequence([*spelled, *behind]),
        normalizer=normalizers.Sequence([*before, normalizers.Replace(" ", "▁")]),
        template="<s> $A",
        byte_fallback=True,
    )


def digits_in_threes() -> PreTrainedTokenizerFast:
    """As Llama-3's: up to three digits together, the blank before them a token of its own."""
    words = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    cut = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _trained(cut, decoders.ByteLevel(), template="<s> $A")


def composes_letters() -> PreTrainedTokenizerFast:
    """As Qwen's: a letter and the accent behind it become one letter before all else."""
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _trained(cut, decoders.ByteLevel(), normalizer=normalizers.NFC())


def crosses_blanks() -> PreTrainedTokenizerFast:
    """A BPE that cuts at sentence marks alone: whole phrases, blanks and all, become one token."""
    cut = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[.?]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _trained(cut, decoders.ByteLevel(), vocabulary=600, repeats=3)


def appends_end() -> PreTrainedTokenizerFast:
    """Puts a begin token in front of a text and the end token behind it."""
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _trained(cut, decoders.ByteLevel(), template="<s> $A </s>")


def only_appends_end() -> PreTrainedTokenizerFast:
    """Puts the end token and a separator behind a text, nothing in front."""
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _trained(cut, decoders.ByteLevel(), template="$A </s> <unk>")


def possessive_in_name() -> PreTrainedTokenizerFast:
    """As gpt-oss's: the end of a name and the possessive behind it are one token."""
    cut = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[\w']+|[^\w]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _trained(cut, decoders.ByteLevel(), vocabulary=420, repeats=3)


ALL: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_level": byte_level,
    "digits_singly": digits_singly,
    "digits_in_threes": digits_in_threes,
    "blank_as_sign": blank_as_sign,
    "blank_in_text": blank_in_text,
    "blank_in_text_alone": blank_in_text_alone,
    "composes_letters": composes_letters,
    "crosses_blanks": crosses_blanks,
    "appends_end": appends_end,
    "only_appends_end": only_appends_end,
    "possessive_in_name": possessive_in_name,
}


def _trained(
    cut: pre_tokenizers.PreTokenizer,
    decoder: decoders.Decoder,
    *,
    normalizer: normalizers.Normalizer | None = None,
    template: str | None = None,
    vocabulary: int = 420,
    repeats: int = 1,
    byte_fallback: bool = False,
) -> PreTrainedTokenizerFast:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if (
        byte_fallback
    ):  # the other letters, those with an accent among them, fall back on their bytes
        alphabet = sorted({letter for text in TEXTS for letter in text if letter.isascii()} | {"▁"})
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = cut, decoder
    if normalizer is not None:
        core.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=_MARKS,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS * repeats, trainer)
    if byte_fallback:
        core = _with_bytes(core)
    if template is not None:
        pieces = [(mark, core.token_to_id(mark)) for mark in _MARKS]
        core.post_processor = processors.TemplateProcessing(single=template, special_tokens=pieces)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def _with_bytes(core: Tokenizer) -> Tokenizer:
    """A tokenizer that writes letters it does not know as bytes."""
    values = json.loads(core.to_str())
    vocabulary = values["model"]["vocab"]
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    values["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(values))
