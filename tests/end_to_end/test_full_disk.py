"""A store that fills up amid a sweep: one line, and nothing that was finished is lost."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.commands import (
    TIMEOUT_SECONDS,
    Commands,
    assert_agree,
    end,
    own_file_system,
    wait_until,
)
from tests.end_to_end.test_kill import FORTY

SIZE_MIB = 16


@pytest.fixture
def small_disk(commands: Commands) -> Iterator[Commands]:
    """The commands in a folder on a file system of a few MiB of its own."""
    folder = commands.folder / "small"
    with own_file_system(folder, SIZE_MIB):
        yield replace(commands, folder=folder)


def fill(path: Path) -> None:
    """Take all room that is left."""
    block = bytes(4096)
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(block) == len(block):
            pass


@pytest.mark.slow
def test_store_fills_up_then_one_line_says_so_and_later_the_rest_is_run(
    small_disk: Commands,
) -> None:
    filler = small_disk.folder / "filler"
    process = small_disk.start(*FORTY)
    try:
        wait_until(lambda: len(small_disk.ends()) >= 2, process)
        fill(filler)
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        end(process)

    assert process.returncode == 2, err
    assert "Traceback" not in err, err
    assert [line for line in err.splitlines() if "No space left on device" in line]
    num_before = len(small_disk.ends())
    assert 2 <= num_before < 40

    filler.unlink()
    again = small_disk.sweep(*FORTY)
    assert again.returncode == 0, again.stderr
    assert set(Counter(row["fingerprint"] for row in small_disk.ends()).values()) == {1}
    assert len(small_disk.ends()) == 40
    assert_agree(small_disk)
