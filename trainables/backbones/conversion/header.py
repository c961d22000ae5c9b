"""Reads the header of a GGUF file: its metadata, and which tensors stand where.

The package `gguf` has a reader of its own, which takes seconds for a vocabulary and says nothing
useful of a file that is cut short. Nothing here loads torch: a dry run reads the header, too.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trainables.errors import BackboneError

SUFFIX = ".gguf"
SOURCE = "source.json"  # in a converted checkpoint's folder: what it was made of
_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_NUMBERS[12] = "d"
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4
_WHOLE = ("F64", "F32", "F16", "BF16")  # not quantised


class _TornError(Exception):
    """Something would stand behind the end of the file."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as a header describes it.

    Attributes:
        kind: How its numbers are stored: F32, F16, Q4_1, ...
        shape: Its dimensions, the slowest first, as torch counts them.
        begin: Place of its first byte in the file.
        num_bytes: That it takes.
    """

    kind: str
    shape: tuple[int, ...]
    begin: int
    num_bytes: int


@dataclass(frozen=True)
class Header:
    """What stands in a GGUF file before its weights.

    Attributes:
        path: The file.
        values: Its metadata.
        tensors: By their names in the file.
    """

    path: Path
    values: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @property
    def architecture(self) -> str:
        """llama.cpp's name for the kind of model."""
        return str(self.values.get("general.architecture", ""))

    @property
    def tokens(self) -> list[str]:
        """The vocabulary, by id."""
        return list(self.values.get("tokenizer.ggml.tokens", ()))

    @property
    def num_parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    @cached_property
    def quantisation(self) -> str:
        """The quantised type that most weights are stored in; empty if none is quantised."""
        counts = Counter[str]()
        for tensor in self.tensors.values():
            if tensor.kind not in _WHOLE:
                counts[tensor.kind] += math.prod(tensor.shape)
        return counts.most_common(1)[0][0] if counts else ""


def gguf_file(model: Path) -> Path | None:
    """The GGUF file that `model` is, or that the folder `model` holds in the place of a checkpoint.

    Raises:
        BackboneError: If the folder holds several.
    """
    if model.suffix == SUFFIX and not model.is_dir():
        return model
    if not model.is_dir() or (model / "config.json").is_file():
        return None
    held = sorted(path for path in model.iterdir() if path.suffix == SUFFIX)
    if len(held) > 1:
        names = ", ".join(path.name for path in held)
        raise BackboneError(f"backbone.model={model}: holds {names}; name one of these files")
    return held[0] if held else None


def read_header(path: Path) -> Header:
    """The header of a GGUF file, all of whose tensors are there.

    Raises:
        BackboneError: If it is missing, no GGUF file, cut short, one of several parts, or holds a
            tensor of an unknown type.
    """
    label = f"backbone.model={path}"
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != _MAGIC:
                raise BackboneError(f"{label}: is no GGUF file")
            header = _Reader(data, label).header(path)
    except FileNotFoundError as error:
        raise BackboneError(f"{label}: there is no such file") from error
    except _TornError as error:
        size = path.stat().st_size
        raise BackboneError(
            f"{label}: is cut short: its header ends behind {size} bytes"
        ) from error
    except (OSError, ValueError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise BackboneError(f"{label}: is no GGUF file, or cannot be read: {reason}") from error
    _check_whole(header)
    if int(header.values.get("split.count", 1)) > 1:
        raise BackboneError(
            f"{label}: is one of {header.values['split.count']} parts; join them first "
            "(llama-gguf-split --merge)"
        )
    return header


class _Reader:
    """Walks through the bytes of a header."""

    def __init__(self, data: mmap.mmap, label: str) -> None:
        self._data, self._size, self._at, self._label = data, len(data), 4, label

    def header(self, path: Path) -> Header:
        version = self._number("I")
        if version not in _VERSIONS:
            raise BackboneError(
                f"{self._label}: is GGUF of version {version}; versions 2 and 3 are read"
            )
        num_tensors, num_values = self._count(), self._count()
        values: dict[str, Any] = {}
        for _ in range(num_values):
            key = self._string()
            values[key] = self._value(self._number("I"))
        found = [self._tensor() for _ in range(num_tensors)]
        alignment = int(values.get("general.alignment", 32))
        start = -(-self._at // max(1, alignment)) * max(1, alignment)
        tensors = {
            name: StoredTensor(kind, shape, start + offset, num_bytes)
            for name, kind, shape, offset, num_bytes in found
        }
        return Header(path, values, tensors)

    def _number(self, kind: str) -> Any:
        (value,) = self._numbers(kind, 1)
        return value

    def _numbers(self, kind: str, count: int) -> tuple[Any, ...]:
        length = struct.calcsize(f"<{kind}") * count
        if self._at + length > self._size:
            raise _TornError
        values = struct.unpack_from(f"<{count}{kind}", self._data, self._at)
        self._at += length
        return values

    def _count(self) -> int:
        """A number of things that follow; each takes a byte at least."""
        count = int(self._number("Q"))
        if count > self._size - self._at:
            raise _TornError
        return count

    def _string(self) -> str:
        length = self._count()
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8", errors="replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            inner, count = self._number("I"), self._count()
            if inner in _NUMBERS:
                return list(self._numbers(_NUMBERS[inner], count))
            return [self._value(inner) for _ in range(count)]
        if kind not in _NUMBERS:
            raise ValueError(f"a value of its metadata is of type {kind}")
        return self._number(_NUMBERS[kind])

    def _tensor(self) -> tuple[str, str, tuple[int, ...], int, int]:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        name, dimensions = self._string(), self._number("I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise ValueError(f"its tensor {name!r} has {dimensions} dimensions")
        shape = tuple(reversed(self._numbers("Q", dimensions)))
        number, offset = self._number("I"), self._number("Q")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise BackboneError(
                f"{self._label}: the tensor {name!r} is stored as type {number}, which is not known"
            ) from None
        block, width = GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            raise ValueError(f"its tensor {name!r} has rows of {shape[-1]} numbers as {kind.name}")
        return name, kind.name, shape, offset, math.prod(shape) // block * width


def _check_whole(header: Header) -> None:
    """Raises BackboneError for the first tensor that stands behind the end of the file."""
    size = header.path.stat().st_size
    ends = sorted((t.begin + t.num_bytes, name) for name, t in header.tensors.items())
    if not ends:
        raise BackboneError(f"backbone.model={header.path}: holds no tensor")
    for end, name in ends:
        if end > size:
            raise BackboneError(
                f"backbone.model={header.path}: is cut short: {size} of {ends[-1][0]} bytes, so "
                f"that the tensor {name!r} is not whole"
            )
