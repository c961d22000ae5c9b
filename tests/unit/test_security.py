"""What a hostile file or a careless library must not achieve."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import sweep
from orchestrator.errors import UsageError
from orchestrator.redaction import redacted
from orchestrator.running.cluster import set_environment
from orchestrator.settings import loading as config
from orchestrator.store.rows import end_row
from trainables.backbones.loading import load_backbone
from trainables.errors import EditingError

ROOT = Path(__file__).resolve().parents[2]


def test_checkpoint_with_code_of_its_own_then_the_code_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w').close()")
    names = {"AutoConfig": "modeling_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    with pytest.raises((EditingError, ValueError, OSError)):
        load_backbone(tmp_path)
    assert not marker.exists()
    assert "modeling_evil" not in sys.modules


def test_ablation_file_with_a_python_tag_then_nothing_is_called(tmp_path: Path) -> None:
    import shutil

    spaces = tmp_path / "search_spaces"
    shutil.copytree(ROOT / "search_spaces", spaces)
    marker = tmp_path / "ran"
    (spaces / "ablation" / "evil.yaml").write_text(
        f"# @package _global_\n# Evil?\nstore: !!python/object/apply:os.mkdir [{marker}]\n"
    )
    with pytest.raises(UsageError, match="evil"):
        config.load(["ablation=evil"], spaces)
    assert not marker.exists()


def test_error_with_a_token_then_the_ledger_row_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.store.test_rows import SPEC, Cell, Resolved

    monkeypatch.setenv("MY_API_KEY", "not-for-your-eyes")
    row: dict[str, Any] = {
        "status": "failed",
        "error": "OSError: 401 for hf_abcdefghijklmnopqrstuvwx",
        "traceback": "key=not-for-your-eyes at https://me:pass@host/x",
    }
    cell = Cell("key", SPEC, Resolved("aa", "bb", 1, {}))
    end = end_row(cell, row, stop_reason=None, checkpoints=[], provenance={})
    assert end.error == "OSError: 401 for ***"
    assert end.traceback == "key=*** at https://***@host/x"


@pytest.mark.parametrize("user", ["me:pass", "me:p@ss:word", "a-token", ":pass"])
def test_redacted_when_an_address_names_a_user_then_it_is_hidden(user: str) -> None:
    assert redacted(f"no answer from https://{user}@host:5000/x") == (
        "no answer from https://***@host:5000/x"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://b/x?secret_key=a/b+c=&region=eu", "s3://b/x?secret_key=***&region=***"),
        ("see (http://h:5000/?token=abc), then", "see (http://h:5000/?token=***), then"),
        ("{'copies': 's3://b?k=a\"b', 'x': 1}", "{'copies': 's3://b?k=***', 'x': 1}"),
        ("https://h/?only-a-key", "https://h/?***"),
        ("https://me:pass@h/x?a=1", "https://***@h/x?a=***"),
        ("http://h/#/runs/1?q=abc", "http://h/#/runs/1?q=***"),
        ("browse http://h/#/experiments/1 or https://h/x? No: a?b=c", None),
    ],
)
def test_redacted_when_an_address_has_a_query_then_its_values_are_hidden(
    text: str, shown: str | None
) -> None:
    assert redacted(text, {}) == (text if shown is None else shown)


@pytest.mark.parametrize(
    "words",
    [
        ['copies="s3://b/x?secret_key=confidential"'],
        ['mlflow="http://h:5000/?token=confidential"'],
        ['copies="s3://b?k=confidential"', 'copies="s3://b?k=confidential"'],
        ["store='s3://b?k=confidential'", "--status"],
        [f"copies=s3://me:confidential{'x' * 200}@b/c=d"],  # cannot be read, and is shortened
        ["copies={a:'s3://b?k=confidential'}"],
    ],
)
def test_command_that_refuses_an_address_with_a_key_then_it_does_not_print_it(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(["ablation=smoke", *words]) == 2
    said = capsys.readouterr().err
    assert "***" in said
    assert "confidential" not in said


def test_redacted_when_nothing_is_secret_then_unchanged() -> None:
    text = "ValueError: method.top_k is 9 at https://host/x; path /tmp/a:b@c"
    assert redacted(text, {"TOKENIZERS_PARALLELISM": "false", "HOME": "/tmp"}) == text


@pytest.mark.parametrize("cluster", ["local", "auto", "10.0.0.1:6379"])
def test_ray_asks_for_a_token_and_a_local_one_is_known_to_nobody_else(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    tokens = set()
    for _ in range(2):
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            monkeypatch.setenv(name, "")  # so that it is put back
            monkeypatch.delenv(name)
        set_environment(cluster)
        assert os.environ["RAY_AUTH_MODE"] == "token"
        tokens.add(os.environ.get("RAY_AUTH_TOKEN", ""))
    if cluster == "local":
        assert len(tokens) == 2  # another one each time
        assert all(re.fullmatch("[0-9a-f]{64}", token) for token in tokens)
        (token, _) = tokens
        assert redacted(f"RayError: {token}", {"RAY_AUTH_TOKEN": token}) == "RayError: ***"
    else:
        assert tokens == {""}  # the cluster's own, from its file


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.on_prem.yaml"])
def test_cluster_files_keep_token_and_dashboard_to_themselves(name: str) -> None:
    loaded = yaml.safe_load((ROOT / name).read_text())
    heads, workers = loaded["head_start_ray_commands"], loaded["worker_start_ray_commands"]
    starts = [line for line in (*heads, *workers) if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_mlflow_listens_on_loopback_alone() -> None:
    source = (ROOT / "orchestrator" / "ui.py").read_text()
    assert re.findall(r'"--host", "([^"]+)"', source) == ["127.0.0.1"]
