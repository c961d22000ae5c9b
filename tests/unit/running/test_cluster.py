"""Ray of a driver's own: where its sockets lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.running import cluster
from tests.end_to_end.commands import run_driver

LONG = "/".join(["", *["a" * 25] * 4])  # 104 signs, as a batch system makes them


def test_a_folder_of_ray_is_fit_up_to_the_length_that_a_socket_leaves_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "_LONGEST_SOCKET", len(str(tmp_path)) + 107)
    socket = "/ray/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store"
    longest = tmp_path / ("x" * (107 - len(socket) - 1))
    longest.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", "")
    monkeypatch.setenv("TMPDIR", str(longest))
    assert cluster._is_default_folder_usable()
    monkeypatch.setenv("TMPDIR", f"{longest}x")
    assert not cluster._is_default_folder_usable()
    monkeypatch.setenv("RAY_TMPDIR", str(longest))  # Ray's own variable wins
    assert cluster._is_default_folder_usable()


def test_a_long_folder_when_no_short_one_can_be_written_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", LONG)
    monkeypatch.setattr(cluster, "_SHORT_FOLDERS", ("/nowhere",))
    with pytest.raises(UsageError, match=rf"^TMPDIR={LONG}: Ray needs a folder .* RAY_TMPDIR$"):
        cluster.check_folder("local")
    cluster.check_folder("auto")  # the folder of a cluster is the cluster's own matter


@pytest.mark.slow
def test_ray_starts_under_a_long_folder_and_leaves_nothing_behind(tmp_path: Path) -> None:
    long = tmp_path / ("a" * 104)
    long.mkdir()
    before = set(os.listdir("/tmp"))
    script = f"""
import os
os.environ["TMPDIR"] = {str(long)!r}
os.environ.pop("RAY_TMPDIR", None)
from orchestrator.running.cluster import running_ray, set_environment
set_environment("local")
with running_ray("local", 1):
    import ray
    print(ray.get(ray.remote(lambda: 6 * 7).remote()))
    print(ray._private.worker.global_worker.node.temp_dir)
"""
    done = run_driver(script)
    assert done.returncode == 0, done.stderr
    answer, folder = done.stdout.split()
    assert answer == "42"
    assert folder.startswith("/tmp/ray-")
    assert Path(folder).name not in set(os.listdir("/tmp")) - before
