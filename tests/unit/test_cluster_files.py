"""Both cluster files pass Ray's own offline checks, and hold no secret."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

util = pytest.importorskip("ray.autoscaler._private.util", reason="Ray moved its schema check")
ROOT = Path(__file__).parents[2]
FILES = ("cluster.yaml", "cluster.on_prem.yaml")


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_cluster_file_passes_the_schema_check(name: str) -> None:
    util.validate_config(util.prepare_config(copy.deepcopy(read(name))))


def test_schema_check_when_a_key_is_misspelt_then_fails() -> None:
    config = read("cluster.yaml")
    config["idle_timeout_minuts"] = 3
    with pytest.raises(Exception, match="idle_timeout_minuts"):
        util.validate_config(util.prepare_config(config))


@pytest.mark.parametrize("name", FILES)
def test_cluster_file_holds_no_secret(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|secret|password|PRIVATE KEY", text, re.IGNORECASE)


def test_gpu_workers_run_on_spot() -> None:
    worker = read("cluster.yaml")["available_node_types"]["gpu_spot"]["node_config"]
    assert worker["InstanceMarketOptions"] == {"MarketType": "spot"}
