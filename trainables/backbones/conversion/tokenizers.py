"""Makes the tokenizer.json of a GGUF file's vocabulary, and checks one that lies beside the file.

A GGUF names the rule by which its tokenizer cuts a text into words, but does not hold it. Of the
byte-level vocabularies those below are made here, since transformers reads several of them by
GPT-2's rule; sentencepiece's need no rule, and are read by transformers.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.backbones.conversion.header import Header
from trainables.backbones.silence import without_reports
from trainables.backbones.tokenizer import FILE, load_tokenizer
from trainables.errors import BackboneError

BESIDE = (FILE, "tokenizer_config.json", "special_tokens_map.json")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BLOOM = " ?[^(\\s|[.,!?…。\uff0c、।\u06d4،])]+"
_CONTROL, _USER_DEFINED = 3, 4
_MARKS = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}


@dataclass(frozen=True)
class _Rule:
    """How a byte-level tokenizer works.

    Attributes:
        split: Words, as a regular expression.
        has_lone_digits: Whether each digit is a word before all else.
        takes_whole_words: Whether a word of the vocabulary is taken without its merges.
        is_composed: Whether letters are composed with their accents first.
        begins: Whether the begin token is put in front, where the file does not say.
    """

    split: str = _GPT2
    has_lone_digits: bool = False
    takes_whole_words: bool = False
    is_composed: bool = False
    begins: bool = False


_RULES = {
    _Rule(): ("", "default", "gpt-2", "olmo", "mpt", "phi-2", "jais"),
    _Rule(has_lone_digits=True): ("smollm", "starcoder", "refact", "command-r", "codeshell"),
    _Rule(split=_LLAMA3, takes_whole_words=True, begins=True): (
        *("llama3", "llama-v3", "llama-bpe", "falcon3"),
    ),
    _Rule(split=_LLAMA3.replace("{1,3}", ""), is_composed=True): ("qwen2", "deepseek-r1-qwen"),
    _Rule(split=_BLOOM): ("bloom", "gpt3-finnish"),
}


def write_tokenizer(header: Header, folder: Path) -> None:
    """Puts the tokenizer of a file into a folder: the one beside it, else one made of its values.

    Raises:
        BackboneError: If it cannot be made, or is not the one that the file describes.
    """
    label = f"backbone.model={header.path}"
    if not header.tokens:
        raise BackboneError(f"{label}: holds no vocabulary (tokenizer.ggml.tokens)")
    source = header.path.parent if (header.path.parent / FILE).is_file() else None
    if source is not None:
        for name in BESIDE:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        label = f"{label}: {FILE} beside it"
    else:
        made = _made(header, label)
        with without_reports():
            made.save_pretrained(folder)
    _check(header, load_tokenizer(folder), label)


def _made(header: Header, label: str) -> Any:
    """The tokenizer that the file's own values describe."""
    from transformers import PreTrainedTokenizerFast

    values, loader = header.values, _as_any(PreTrainedTokenizerFast)
    kind = values.get("tokenizer.ggml.model")
    marks = {
        f"{short}_token": header.tokens[values[key]]
        for mark, short in _MARKS.items()
        if (key := f"tokenizer.ggml.{mark}_token_id") in values
    }
    try:
        if kind == "gpt2":
            return loader(tokenizer_object=_byte_level(header, label), **marks)
        if kind != "llama":
            raise BackboneError(
                f"{label}: its tokenizer is of the kind {kind!r}; read: gpt2, llama"
            )
        with without_reports():
            return loader.from_pretrained(
                str(header.path.parent), gguf_file=header.path.name, local_files_only=True
            )
    except BackboneError:
        raise
    except Exception as error:  # tokenizers raises plain Exception of what it does not understand
        reason = " ".join(str(error).split())[:200]
        raise BackboneError(f"{label}: its tokenizer cannot be made: {reason}") from error


def _byte_level(header: Header, label: str) -> Any:
    """A byte-level BPE tokenizer that cuts words by the rule that the file names."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    rule = _rule(header, label)
    merges = [
        tuple(merge.split(" ", 1)) for merge in header.values.get("tokenizer.ggml.merges", ())
    ]
    vocabulary = {token: id_ for id_, token in enumerate(header.tokens)}
    core = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, ignore_merges=rule.takes_whole_words)
    )
    if rule.is_composed:
        core.normalizer = normalizers.NFC()
    core.pre_tokenizer = _words(rule)
    core.decoder = decoders.ByteLevel()
    kinds = header.values.get("tokenizer.ggml.token_type") or ()
    for token, each in zip(header.tokens, kinds, strict=False):
        added = AddedToken(token, normalized=False, special=each == _CONTROL)
        if each == _CONTROL:
            core.add_special_tokens([added])
        elif each == _USER_DEFINED:
            core.add_tokens([added])
    core.post_processor = _marks_around(header, rule)
    return core


def _rule(header: Header, label: str) -> _Rule:
    name = str(header.values.get("tokenizer.ggml.pre", ""))
    if not name and any(header.architecture in names for names in _RULES.values()):
        name = header.architecture  # a file of before the rule was named
    for rule, names in _RULES.items():
        if name in names:
            return rule
    known = ", ".join(each for names in _RULES.values() for each in names if each)
    raise BackboneError(
        f"{label}: its tokenizer.ggml.pre={name} is not known; known: {known}; or put the model's "
        f"{FILE} beside it"
    )


def _words(rule: _Rule) -> Any:
    from tokenizers import Regex, pre_tokenizers

    steps = [
        pre_tokenizers.Split(Regex(rule.split), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    if rule.has_lone_digits:
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    return pre_tokenizers.Sequence(steps)


def _marks_around(header: Header, rule: _Rule) -> Any:
    """What puts begin and end tokens around a text; it also keeps the places of its tokens."""
    from tokenizers import processors

    values, parts, ids = header.values, ["$A"], []
    for mark, otherwise, place in (("bos", rule.begins, 0), ("eos", False, 1)):
        id_ = values.get(f"tokenizer.ggml.{mark}_token_id")
        if id_ is not None and values.get(f"tokenizer.ggml.add_{mark}_token", otherwise):
            token = header.tokens[id_]
            parts.insert(place * len(parts), token)
            ids.append((token, id_))
    plain = processors.ByteLevel(trim_offsets=False)
    if not ids:
        return plain
    template = processors.TemplateProcessing(single=" ".join(parts), special_tokens=ids)
    return processors.Sequence([plain, template])


def _check(header: Header, tokenizer: Any, label: str) -> None:
    """Raises BackboneError for the first token that has another id than in the file."""
    ids: Mapping[str, int] = tokenizer.get_vocab()
    tokens = {id_: token for token, id_ in ids.items()}
    for id_, token in enumerate(header.tokens):
        # sentencepiece's runs of blanks are written as blanks by some, and as its sign by others
        allowed = {token, token.replace(" ", "▁")}
        found = tokens.get(id_)
        if found not in allowed and not (found is None and token not in ids and _is_unused(token)):
            raise BackboneError(f"{label}: the id {id_} is {found!r}; in the file it is {token!r}")
    for mark, short in _MARKS.items():
        due = header.values.get(f"tokenizer.ggml.{mark}_token_id")
        has = getattr(tokenizer, f"{short}_token_id")
        if due is not None and mark == "eos" and has != due:
            raise BackboneError(f"{label}: its {short}_token has the id {has}; in the file {due}")


def _is_unused(token: str) -> bool:
    """Whether llama.cpp has made a token up, for a row of the embedding that no token uses."""
    return token.startswith("[PAD") and token[4:-1].isdigit()


def _as_any(value: Any) -> Any:
    return value
