from __future__ import annotations

from pathlib import Path

from orchestrator.forecast.estimate import Forecast
from orchestrator.planning.plan import expand
from orchestrator.settings import loading as config
from orchestrator.terminal.plan_tables import plan_tables
from tests.unit.terminal.shown import row, shown


def test_dry_run_when_shown_then_every_value_names_its_source(folder: Path) -> None:
    plan = expand(config.load(["ablation=ranks", "seeds=[4]", "method.stop_loss=0.2"], folder))
    forecast = Forecast(9, 120.0, 240.0, 0.0, 1.0, 0)
    lines = shown(plan_tables(plan, forecast))
    assert "9 trials: 9 arms x 1 seeds" in [line.strip() for line in lines]
    assert row(lines, "lora_rank=1 num_experts=10 top_k=5")[3:] == [
        "1",
        "(16,",
        "32)",
        "10",
        "5",
        "1",
    ]
    assert row(lines, "method.edit_layer") == [
        "method.edit_layer",
        "9",
        "method",
        "moe,",
        "there",
        "18",
    ]
    assert row(lines, "method.stop_loss") == ["method.stop_loss", "0.2", "command", "line"]
    assert row(lines, "method.num_steps") == ["method.num_steps", "7", "preset", "tiny/lemoe"]
    assert row(lines, "protocol.num_edits") == ["protocol.num_edits", "8", "ablation", "ranks"]
    assert row(lines, "forecast")[:3] == ["forecast", "(rough:", "from"]
    assert "2 min of wall time" in next(line for line in lines if line.startswith("forecast"))


def test_dry_run_when_methods_differ_then_their_values_stand_apart(folder: Path) -> None:
    lines = shown(plan_tables(expand(config.load(["ablation=methods"], folder)), None))
    assert row(lines, "method.layers (multi)")[:5] == [
        "method.layers",
        "(multi)",
        "[2,",
        "3,",
        "4]",
    ]
    orders = [line.split()[1:] for line in lines if line.startswith("protocol.order")]
    assert ["kmeans_filled", "the", "method's", "own"] in orders
    assert ["given", "default"] in orders


def test_dry_run_when_named_arms_differ_then_each_value_names_its_arms() -> None:
    typed = ["ablation=arm_components", "method.full.edit_lr=0.5", "method.stop_loss=0.25"]
    lines = shown(plan_tables(expand(config.load(typed)), None))
    rates = [line for line in lines if line.startswith("method.edit_lr")]
    assert [line for line in rates if line.startswith("method.edit_lr (full) ")]
    assert len(rates) == 2  # the others have one of their own together
    assert row(lines, "method.stop_loss")[:2] == ["method.stop_loss", "0.25"]


def test_dry_run_when_a_search_then_its_space_is_shown(folder: Path) -> None:
    lines = shown(plan_tables(expand(config.load(["ablation=search"], folder)), None))
    assert row(lines, "method.lora_rank") == ["method.lora_rank", "categorical", "1,", "64"]
    assert row(lines, "method.edit_layer") == ["method.edit_layer", "int", "0", "to", "15"]
