"""Both cluster files pass Ray's own offline checks, and hold no secret."""

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.errors import UsageError
from orchestrator.forecast.placement import attainable, preflight
from orchestrator.planning.plan import expand
from orchestrator.running.cluster import read_scaling
from orchestrator.settings.loading import load

util = pytest.importorskip("ray.autoscaler._private.util", reason="Ray moved its schema check")
ROOT = Path(__file__).parents[3]
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


def test_gpu_workers_run_on_spot_and_on_demand_where_there_is_none() -> None:
    types = read("cluster.yaml")["available_node_types"]
    spot, on_demand = types["gpu_spot"], types["gpu_on_demand"]
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in on_demand["node_config"]
    # Ray looks at `priority` only between types that are used equally well.
    assert spot["resources"] == on_demand["resources"]
    assert spot["priority"] > on_demand["priority"]


def test_head_alone_is_there_then_a_gpu_trial_waits_for_a_worker_that_may_be_added() -> None:
    (trial, *_) = expand(load(["ablation=lemoe_lora", "backbone=llama2_7b"])).trials
    supply = attainable([{"CPU": 0.0}], read_scaling(ROOT / "cluster.yaml"))
    assert supply.total == {"CPU": 64.0, "GPU": 8.0}  # 8 workers in all, of either type
    preflight(trial, supply.total, nodes=supply.nodes)
    large = replace(trial, backbone={**trial.backbone, "memory_gib": 100.0})
    with pytest.raises(UsageError, match=r"on one node .*the nodes that are there or may be added"):
        preflight(large, supply.total, nodes=supply.nodes)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"- a list", b"a: [", b"!!python/name:os"])
def test_scaling_file_that_cannot_be_read_is_as_none(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "scaling.yaml").write_bytes(content)
    assert read_scaling(tmp_path / "scaling.yaml") == {}


@pytest.mark.parametrize("name", FILES)
def test_mlflow_of_a_cluster_is_bound_to_one_address_and_answers_to_its_own_names(
    name: str,
) -> None:
    (line,) = [line for line in read(name)["head_start_ray_commands"] if "mlflow server" in line]
    words = line.split()
    host = words[words.index("--host") + 1]
    allowed = words[words.index("--allowed-hosts") + 1].strip('"').split(",")
    assert host in ("$ip", "10.0.0.1")
    assert f"{host}:5000" in allowed
    assert "*" not in line.partition("--allowed-hosts")[2].split()[0]
    (database,) = [word for word in words if word.startswith("sqlite:")]
    assert database.startswith("sqlite:///$HOME/")  # never on NFS
