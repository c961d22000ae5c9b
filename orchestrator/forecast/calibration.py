"""Measures once how fast this machine is, and keeps it in the cache, where dry runs read it."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path

from orchestrator.forecast.estimate import CPU_FLOPS

_FILE = "machine.json"
_ROWS, _WIDTH, _OUT = 512, 512, 1536  # as a small model's layer
_SECONDS = 0.15
# Of what matrix products alone reach, so much is left with what stands between them in a model.
_SHARE = 0.55


def calibrated() -> float:
    """Operations per second of one thread in a model: those of bare matrix products, reduced."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        left, right = torch.ones(_ROWS, _WIDTH), torch.ones(_WIDTH, _OUT)
        left @ right  # warms up
        count, begin = 0, time.process_time()
        while (taken := time.process_time() - begin) < _SECONDS:
            left @ right
            count += 1
    finally:
        torch.set_num_threads(threads)
    return _SHARE * 2 * _ROWS * _WIDTH * _OUT * count / taken


def keep_speed(cache: Path) -> None:
    """Measure this host's speed for the cache, unless it is there or cannot be written."""
    known = _known(cache)
    if socket.gethostname() in known:
        return
    known[socket.gethostname()] = calibrated()
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        (cache / _FILE).write_text(json.dumps(known))


def known_speed(cache: Path) -> float:
    """Operations per second of this host, measured by an earlier sweep, or else a usual value."""
    return _known(cache).get(socket.gethostname(), CPU_FLOPS)


def _known(cache: Path) -> dict[str, float]:
    """Operations per second by host; empty if nothing can be read."""
    try:
        loaded = json.loads((cache / _FILE).read_text())
        return {str(host): float(flops) for host, flops in loaded.items() if float(flops) > 0}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
