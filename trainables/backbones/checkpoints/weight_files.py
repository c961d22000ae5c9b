"""Reads the safetensors files of a checkpoint: which belong to it, and whether they are whole.

Their headers are read here, not by the library, because it says of a file that is cut short only
that its header is bad.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol

import torch

from trainables.errors import BackboneError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
POINTER = "is a Git LFS pointer, not the file itself; fetch it with git lfs pull"
_POINTER = b"version https://git-lfs"
_BLOCK = 1 << 23  # bytes at a time; fits into a cache, and is whole numbers of every dtype
_LENGTH = 8  # bytes that say how long the header is
_LONGEST_HEADER = 100_000_000  # bytes, the library's own limit


class Digest(Protocol):
    """A hash, or anything else that is fed the bytes that are read."""

    def update(self, data: Any, /) -> None:
        """Take up some bytes."""
        ...


@dataclass(frozen=True)
class Stored:
    """One tensor as a header describes it.

    Attributes:
        file: Where it is stored.
        dtype: In the format's own words: F32, BF16, I64, ...
        shape: Its dimensions.
        begin: Place of its first byte in the file.
        end: Place behind its last.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Extreme:
    """The value that is farthest from zero, and the tensor and file it stands in."""

    value: float = 0.0
    tensor: str = ""
    file: str = ""


def is_pointer(file: Path) -> bool:
    """Whether a file is what Git LFS puts in the place of a large one."""
    with file.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: the one file, or those that the index names.

    Other *.safetensors beside them, an adapter's or another program's, are never read.

    Raises:
        BackboneError: If there are none, or the index names some that are missing or elsewhere.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        raise BackboneError(f"backbone.model={folder}: {_without_weights(folder)}")
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BackboneError(f"backbone.model={folder}: {INDEX} is no index of weights") from error
    for name in names:
        # a file outside is in no fingerprint
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise BackboneError(
                f"backbone.model={folder}: {INDEX} names {name!r}; "
                "weights must be *.safetensors in the folder itself"
            )
        if not (folder / name).is_file():
            raise BackboneError(
                f"backbone.model={folder}: {INDEX} names {name}, which is not there"
            )
    return [folder / name for name in names]


def _without_weights(folder: Path) -> str:
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / "adapter_config.json").is_file():
        return f"holds an adapter without {WEIGHTS}; merge it into the model it was made for"
    if others:
        return f"holds {others[0]}, but neither {WEIGHTS} nor {INDEX}"
    return f"holds no {WEIGHTS}; pickled weights are not read"


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of the weight files, by the name they are stored under.

    Raises:
        BackboneError: If a file is cut short, is none, or a name stands in two of them.
    """
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        try:
            held = _header(file)
        except (OSError, ValueError) as error:
            raise BackboneError(f"backbone.model={folder}: {file.name} {error}") from error
        for name in held.keys() & found.keys():
            raise BackboneError(
                f"backbone.model={folder}: the tensor {name!r} stands in {found[name].file.name} "
                f"and in {file.name}"
            )
        found |= held
    return found


def _header(file: Path) -> dict[str, Stored]:
    """The tensors of one file.

    Raises:
        ValueError: Saying what is wrong with it, to be put behind its name.
    """
    size = file.stat().st_size
    if is_pointer(file):
        raise ValueError(POINTER)
    with file.open("rb") as stream:
        start = stream.read(_LENGTH)
        length = int.from_bytes(start, "little")
        if len(start) < _LENGTH or length > min(size - _LENGTH, _LONGEST_HEADER):
            raise ValueError(f"is no safetensors file, or cut short: it has {size} bytes")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            held = {
                name: Stored(
                    file,
                    str(entry["dtype"]),
                    tuple(int(side) for side in entry["shape"]),
                    *(_LENGTH + length + int(place) for place in entry["data_offsets"]),
                )
                for name, entry in header.items()
            }
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError("is no safetensors file: its header cannot be read") from error
    due = max((tensor.end for tensor in held.values()), default=_LENGTH + length)
    if size < due:
        _, first = min((tensor.end, name) for name, tensor in held.items() if tensor.end > size)
        raise ValueError(
            f"is cut short: {size} of {due} bytes, so that the tensor {first!r} is not whole"
        )
    if size > due:
        raise ValueError(f"is longer than its header says: {size} bytes, not {due}")
    _check_layout(held, _LENGTH + length)
    return held


def _check_layout(held: Mapping[str, Stored], expected: int) -> None:
    """Raises ValueError if tensors overlap, leave gaps or are not as long as their shape."""
    for name, tensor in sorted(held.items(), key=lambda item: (item[1].begin, item[1].end)):
        width = DTYPES[tensor.dtype].itemsize if tensor.dtype in DTYPES else None
        length = tensor.end - tensor.begin
        is_odd = width is not None and length != width * math.prod(tensor.shape)
        if tensor.begin != expected or length < 0 or is_odd:
            raise ValueError(f"is no safetensors file: the tensor {name!r} lies wrongly in it")
        expected = tensor.end


def read_through(file: Path, held: Mapping[str, Stored], digest: Digest) -> Extreme:
    """The largest magnitude in a file whose bytes all pass through `digest`.

    Args:
        file: One weight file.
        held: Those of its tensors whose values count; integers among them are passed over.
        digest: Takes up every byte, in order.

    Raises:
        BackboneError: Naming the first tensor with a value that is not finite.
    """
    extreme = Extreme()
    buffer = memoryview(bytearray(_BLOCK))
    numbers = [item for item in held.items() if item[1].dtype in DTYPES]
    with file.open("rb") as stream:
        for name, tensor in sorted(numbers, key=lambda item: item[1].begin):
            for _ in _blocks(stream, tensor.begin - stream.tell(), buffer, digest):
                pass
            for block in _blocks(stream, tensor.end - tensor.begin, buffer, digest):
                value = _magnitude(block, DTYPES[tensor.dtype])
                if not math.isfinite(value):
                    raise BackboneError(
                        f"backbone.model={file.parent}: the tensor {name!r} in {file.name} holds "
                        f"a value that is not finite ({value})"
                    )
                if value > extreme.value:
                    extreme = Extreme(value, name, file.name)
        for _ in _blocks(stream, file.stat().st_size - stream.tell(), buffer, digest):
            pass
    return extreme


def _blocks(
    stream: BufferedReader, length: int, buffer: memoryview, digest: Digest
) -> Iterator[memoryview]:
    """The next `length` bytes of `stream`, block by block in `buffer`, each told to `digest`."""
    while length > 0:
        block = buffer[: min(length, len(buffer))]
        read = stream.readinto(block)
        if read != len(block):
            raise OSError(f"{stream.name} became shorter while it was read")
        digest.update(block)
        length -= read
        yield block


def _magnitude(block: memoryview, dtype: torch.dtype) -> float:
    """The largest absolute value; NaN if there is one."""
    low, high = torch.aminmax(torch.frombuffer(block, dtype=dtype))
    return max(abs(float(low)), abs(float(high))) if low == low else math.nan
