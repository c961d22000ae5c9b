"""Chooses the dtype of a backbone where `backbone.dtype=auto` leaves it open."""

from __future__ import annotations

from pathlib import Path

AUTO = "auto"
_NATIVE = ("amx_bf16", "avx512_bf16", "bf16")  # x86 as Linux names them, and ARM
_LEAST_WIDTH = 512


def automatic_dtype(width: int, flags: frozenset[str]) -> tuple[str, str]:
    """The dtype for a backbone on a CPU, and why.

    A CPU that computes in bfloat16 took .64 to .72 of float32's time on a Llama of width 576, and
    more than float32's on one of width 128, where the conversions cost more than the products. One
    that does not must emulate it.

    Args:
        width: The backbone's hidden size.
        flags: What the CPU can do, as `cpu_flags` reads it.
    """
    if not flags.intersection(_NATIVE):
        return "float32", "this CPU does not compute in bfloat16"
    if width < _LEAST_WIDTH:
        return "float32", f"below a width of {_LEAST_WIDTH} bfloat16 is slower"
    return "bfloat16", "this CPU computes in it"


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The flags of the first CPU of this machine; empty where Linux does not tell them."""
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":") for line in lines)
    return next(
        (
            frozenset(flags.split())
            for key, _, flags in found
            if key.strip().lower() in ("flags", "features")
        ),
        frozenset(),
    )
