"""What training trials, or single edits, together saves: CPU-seconds of both ways, in turns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from statistics import mean

from orchestrator.planning import plan
from orchestrator.settings import loading as config
from trainables.cache import default_cache
from trainables.spec import TrialSpec
from trainables.trials.packs.pack import Member, Pack, costs
from trainables.trials.workbench import Workbench

SIZES = (4, 8)
GRIDS = (
    "ablation=lemoe_lora",
    "ablation=memoe_grid",
    "ablation=smoke method=ft_m axes={method.edit_lr:[1e-4,2e-4,3e-4,5e-4,7e-4,1e-3,2e-3,3e-3]}",
    "ablation=lemoe_lora backbone=smollm2_135m dataset=countries method.edit_layer=20 "
    "method.num_experts=10 method.top_k=1 protocol.num_edits=10",
)
SINGLES = ("lemoe_lora", "lemoe", "memoe_v1", "memoe_v2", "dense_adapter", "arm", "wise_merge")
BACKBONES = ("backbone=facts", "backbone=smollm2_135m dataset=countries")
_NUM_SINGLES = 16
_TURNS = ("unpacked", "packed", "packed", "unpacked")
_SCORES = ("reliability.token", "generality.token", "locality_far.token")

Row = dict[str, float]


def packs() -> None:
    """Each grid's trials of one seed, by the layer that they edit."""
    print(f"packs: CPU seconds of whole trials, packed beside one by one; {os.cpu_count()} cores")
    bench = Workbench(default_cache())
    for typed in GRIDS:
        made = plan.expand(config.load([*typed.split(), "seeds=[0]"]))
        specs = [TrialSpec.parse(spec.to_dict()) for spec in made.trials]
        print(f"  {typed}")
        for layer in sorted({_layer(spec) for spec in specs}):
            alike = [spec for spec in specs if _layer(spec) == layer]
            for size in sorted({min(size, len(alike)) for size in SIZES}):
                if size > 1:
                    _compare(bench, layer, alike[:size])


def singles() -> None:
    """Edits that are each rolled back: a method for each, together, or one after the other."""
    print(f"singles: seconds of {_NUM_SINGLES} edits, together and alone; {os.cpu_count()} cores")
    bench = Workbench(default_cache())
    for typed in BACKBONES:
        for method in SINGLES:
            of = f"ablation=smoke {typed} method={method} protocol.kind=single seeds=[0] axes={{}}"
            made = plan.expand(config.load([*of.split(), f"protocol.num_edits={_NUM_SINGLES}"]))
            spec = TrialSpec.parse(made.trials[0].to_dict())
            seconds: dict[str, list[float]] = {way: [] for way in _TURNS}
            rows: dict[str, Row] = {}
            for way in ("packed", *_TURNS):  # the first fills the caches
                loop = bench.loop(spec, is_apart=way == "unpacked")
                rows[way] = loop.run()
                loop.close()
                seconds[way].append(rows[way]["edit_seconds"])
            together, alone = seconds["packed"][1:], seconds["unpacked"]
            furthest = max(
                abs(rows["packed"][f"{k}.final"] - rows["unpacked"][f"{k}.final"]) for k in _SCORES
            )
            print(
                f"  {typed} {method}: alone {_shown(alone)}, together {_shown(together)}, ratio "
                f"{mean(together) / mean(alone):.2f}; scores differ by at most {furthest:.4f}; "
                f"load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


def _compare(bench: Workbench, layer: int, specs: Sequence[TrialSpec]) -> None:
    ways: dict[str, Callable[[Workbench, Sequence[TrialSpec]], list[Row]]] = {
        "unpacked": _one_by_one,
        "packed": _together,
    }
    _one_by_one(bench, specs[:1])  # backbone, data and states below the layer
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    rows: dict[str, list[Row]] = {}
    for way in _TURNS:
        begin = time.process_time()
        rows[way] = ways[way](bench, specs)
        seconds[way].append(time.process_time() - begin)
    loops = [bench.loop(spec, is_apart=True) for spec in specs]
    packed, alone = costs(loops, 1.0, by_clock=bench.device != "cpu")
    for loop in loops:
        loop.close()
    bench.check_restored()
    pairs = list(zip(rows["packed"], rows["unpacked"], strict=True))
    steps = [int(row["num_steps"]) for row in rows["unpacked"]]
    furthest = max(
        abs(one[f"{k}.final"] - two[f"{k}.final"]) for one, two in pairs for k in _SCORES
    )
    ratio = mean(seconds["packed"]) / mean(seconds["unpacked"])
    print(
        f"    layer {layer}, {len(specs)} trials of {min(steps)} to {max(steps)} steps: unpacked "
        f"{_shown(seconds['unpacked'])}, packed {_shown(seconds['packed'])}, ratio {ratio:.2f}; "
        f"a step {1e3 * alone:.0f} and {1e3 * packed:.0f} ms, ratio {packed / alone:.2f}; scores "
        f"differ by at most {furthest:.4f}; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def _one_by_one(bench: Workbench, specs: Sequence[TrialSpec]) -> list[Row]:
    rows = []
    for spec in specs:
        loop = bench.loop(spec)
        rows.append(loop.run())
        loop.close()
    return rows


def _together(bench: Workbench, specs: Sequence[TrialSpec]) -> list[Row]:
    loops = [bench.loop(spec, is_apart=True) for spec in specs]
    members = [Member(str(number), loop) for number, loop in enumerate(loops)]
    Pack(members).train(1.0)
    rows = [loop.run() for loop in loops]
    for loop in loops:
        loop.close()
    return rows


def _layer(spec: TrialSpec) -> int:
    return int(spec.method.settings["edit_layer"])


def _shown(seconds: Iterable[float]) -> str:
    return " and ".join(f"{each:.1f}" for each in seconds)
