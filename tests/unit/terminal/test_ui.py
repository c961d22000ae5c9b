"""What `ui.py` refuses before it starts a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import ui


@pytest.mark.parametrize("port", ["99999999", "65536", "0", "-1", "http", "²", ""])
def test_port_that_no_server_can_have_then_one_line_says_which_can(
    tmp_path: Path, port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").touch()
    assert ui.main([f"store={tmp_path}", f"port={port}"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"error: port={port}: must be a number from 1 to 65535\n"


def test_address_with_a_key_then_the_line_hides_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert ui.main(["mlflow=http://h:5000/?token=confidential"]) == 2
    said = capsys.readouterr().err
    assert "mlflow=http://h:5000/?token=***: must be" in said
    assert "confidential" not in said
