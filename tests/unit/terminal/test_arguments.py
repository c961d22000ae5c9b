"""Every option typed is obeyed or refused, before anything runs."""

from __future__ import annotations

import pytest

from orchestrator import sweep

SMOKE = "ablation=smoke"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--watch"], "--watch goes with --status"),
        (["--watch", "--list"], "--watch goes with --status"),
        (["--simulate-gpus", "8", SMOKE], "--simulate-gpus goes with --dry-run"),
        (["--simulate-gpus", "8", "--status", SMOKE], "--simulate-gpus goes with --dry-run"),
        (["--list", "foo=1"], "foo=1: nothing else counts with --list"),
        (["--list", SMOKE], "ablation=smoke: nothing else counts with --list"),
        (["--list", "copies=s3://b?key=secret"], "copies=s3://b?key=***: nothing else counts"),
        (["--retry-failed", "--list"], "--retry-failed: it is for a sweep and its --dry-run"),
        (["--fresh", "--status"], "--fresh: it is for a sweep and its --dry-run; --status runs no"),
        (["--fresh", "--sync", SMOKE], "--sync runs no trial"),
        (["--complete-stopped", "--explain", "seeds"], "--complete-stopped: it is for a sweep"),
        (["--fresh", "--new", "another"], "--new runs no trial"),
        (["--fresh", "--write-answers", "a.jsonl", SMOKE], "--write-answers runs no trial"),
    ],
)
def test_option_without_effect_then_one_line_says_what_it_goes_with(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(words) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert told in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)
