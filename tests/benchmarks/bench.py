r"""The command `make bench`: what a trial costs, as ratios and slopes within one run.

`trial`  a lemoe_lora trial beside the naive way of naive.py, with the same scores
`steps`  of each method: one optimisation step and one prompt, beside the whole model's
`edits`  CPU seconds per edit and per evaluated prompt, beside those of a published toolkit
`added`  wall time that one more trial adds to a sweep, for Ray, ledger and MLflow together
`gpu`    LEMoE on a backbone of LLaMA2-7B's shape with random weights, where there is a GPU

Only when asked for, since they take half an hour and some minutes:

`scale`    10,000 trials of no_edit: time per trial, memory of the driver, replay, table
`drivers`  the same by two drivers on one store
`search`   2,000 draws by one worker and by two: time per trial, memory of the driver
`replay`   100,000 ends in one ledger: seconds and memory
`workers`  trials per minute of two workers against one
`reports`  a table, all claims and the page of 10,000 runs: seconds and memory
`growth`   an edit of GRACE at the end of 1,000, beside one at the beginning, on facts
`batch`    the memory of 1,000 edits of MEMIT in one batch, on smollm2_135m
`packs`    trials that are trained together beside one by one, on facts and smollm2_135m
`singles`  edits that are each rolled back, together beside one by one, on the same two
`stopping` the survivors of ASHA, and what they cost, beside a grid of 112 cells run to its end

Only when asked for as well, since they take some minutes:

`forecast`  of every method on two backbones: CPU-seconds and peak memory beside their forecast
`memory`    of every method on an exact small model: each stage, allocation by allocation
`shared`    training the embedded backbone beside another busy process
`checkpoints`  how long training stands still while a state of 1 GiB is saved

    python tests/benchmarks/bench.py \
        [only=trial|steps|edits|added|gpu|scale|drivers|search|replay|workers|reports|growth|batch|packs|singles|stopping|forecast|memory|shared|checkpoints]

Beside a checkout of EasyEdit, in one run, on a real model: tests/benchmarks/peer.py.

Nothing here passes or fails a test: times depend on the machine. CPU seconds are those of one
thread; shared caches move them by a quarter.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

sys.path[0] = str(Path(__file__).resolve().parents[2])

from orchestrator.planning import plan
from orchestrator.settings import loading as config
from orchestrator.store.ledger import Ledger
from tests.benchmarks import scaling
from tests.benchmarks.checkpoints import checkpoints
from tests.benchmarks.forecasts import forecasts
from tests.benchmarks.growth import large_batch, late_edits
from tests.benchmarks.memory import memories
from tests.benchmarks.naive import NaiveTrial
from tests.benchmarks.packs import packs, singles
from tests.benchmarks.per_method import line_of, method_cost
from tests.benchmarks.reports import reports
from tests.benchmarks.scaling import verdict
from tests.benchmarks.shared import shared
from tests.benchmarks.stopping import stopping
from trainables.cache import default_cache
from trainables.edits.drawing import draw
from trainables.edits.sources import backbone_folder, open_source
from trainables.interfaces import Edit
from trainables.metrics.evaluator import Evaluator
from trainables.prompts import edit_batch
from trainables.spec import TrialSpec
from trainables.trials.loop import EditLoop
from trainables.trials.workbench import Workbench

ROOT = Path(__file__).resolve().parents[2]

LEAST_RATIO, MOST_ADDED_SECONDS = 4.0, 0.15
REPETITIONS = 5

TRIAL = (
    "ablation=smoke method=lemoe_lora backbone=facts protocol.num_edits=30 method.edit_layer=9 "
    "method.lora_rank=64 method.num_experts=10 method.top_k="
)
TRIAL_TOP_K = (1, 10)

# CPU seconds per edit of EasyEdit (commit 14cea82) on a small Llama of 16 layers, one thread.
PEER_EDIT_SECONDS = {"ft_m": 0.25, "grace": 0.3, "memit": 0.42}
PEER_PROMPT_MILLISECONDS = 7.1
_ONE_BY_ONE = "protocol.kind=lifelong protocol.num_edits=30 protocol.edit_batch_size=1"
EDITS = {
    "ft_m": f"method=ft_m {_ONE_BY_ONE}",
    "grace": f"method=grace method.num_steps=50 {_ONE_BY_ONE}",  # the toolkit's number of steps
    "memit": "method=memit protocol.num_edits=30 method.cov_weight=15",
}

# Methods that edit one layer by optimiser steps: at the middle layer, and one by one where that is
# how they are published, WISE and ARM at the layer that stands for their published 27 of 32.
STEPS_BATCH = ("ft_m", "lemoe", "lemoe_lora", "conventional_moe", "dense_adapter", "memoe_v1")
STEPS = {
    **{name: (9, 30) for name in (*STEPS_BATCH, "memoe_v2")},
    "grace": (9, 1),
    **{name: (13, 1) for name in ("wise_merge", "wise_retrieval", "arm")},
}
LEAST_SIDE_RATIO = 3.0

ADDED_TRIALS = (40, 120)
ADDED_REPETITIONS = 3

LARGE_BATCH = (
    "backbone=smollm2_135m dataset=countries dataset.part=all dataset.known_only=false "
    "protocol.num_edits=350"
)

GPU_LAYER, GPU_EXPERTS, GPU_BATCH = 18, 5, 30


def trial() -> None:
    """A warm trial beside the naive one, in turns; their scores must agree."""
    bench = Workbench(default_cache())
    print(f"trial: CPU seconds of one lemoe_lora trial, {REPETITIONS} repetitions each in turns")
    for top_k in TRIAL_TOP_K:
        spec = _spec(f"{TRIAL}{top_k}")
        begin = time.process_time()
        _run(bench, spec)
        first = time.process_time() - begin
        ours, naive = [], []
        for _ in range(REPETITIONS):
            begin = time.process_time()
            scores = _run(bench, spec)
            ours.append(time.process_time() - begin)
            begin = time.process_time()
            others = _run_naive(bench, spec)
            naive.append(time.process_time() - begin)
            _check_agreement(scores, others)
        ratio = median(naive) / median(ours)
        ratios = [there / here for there, here in zip(naive, ours, strict=True)]
        print(
            f"  layer 9 of 16, rank 64, 10 experts, top-{top_k}: naive {_spread(naive)}, here "
            f"{_spread(ours)} (first of its process {first:.2f}); ratio of medians {ratio:.1f}, "
            f"least of a pair {min(ratios):.1f}, demand >= {LEAST_RATIO:.0f}: "
            f"{verdict(ratio >= LEAST_RATIO)}"
        )
        print(f"    {int(scores['num_steps'])} steps; scores agree: {_shown(others)}", flush=True)


def steps() -> None:
    """Each method's step and prompt, as ratios to those of the whole model."""
    bench = Workbench(default_cache())
    print(f"steps: on facts, CPU milliseconds, medians of {REPETITIONS}")
    for name, (layer, num_edits) in STEPS.items():
        kind = "batch" if num_edits > 1 else "single"
        typed = f"protocol.kind={kind} protocol.num_edits={num_edits} method.edit_layer={layer}"
        spec = _spec(f"ablation=smoke method={name} backbone=facts {typed}")
        cost = method_cost(bench, spec, REPETITIONS)
        judged = ""
        if name.startswith(("wise", "arm")):
            is_met = cost.plain_step / cost.step >= LEAST_SIDE_RATIO
            judged = f"; demand >= {LEAST_SIDE_RATIO:.0f}: {verdict(is_met)}"
        print(line_of(name, {"layer": layer, "edits": num_edits}, cost) + judged, flush=True)


def edits() -> None:
    """CPU seconds per edit, preparation excluded, and per evaluated prompt."""
    bench = Workbench(default_cache())
    print("edits: on facts_wd5, 30 edits; ft_m and grace one by one, memit in one batch")
    for name, typed in EDITS.items():
        spec = _spec(f"ablation=smoke backbone=facts_wd5 {typed}")
        seconds: list[float] = []
        for _ in range(REPETITIONS):
            loop = bench.loop(TrialSpec.parse(spec.to_dict()))
            try:
                seconds.append(_edit_seconds(bench, loop, spec) / len(loop.records))
                prompts = _prompt_milliseconds(bench, loop, spec)
            finally:
                loop.close()
            bench.check_restored()
        print(
            f"  {name}: {_spread(seconds, 3)} CPU s per edit (EasyEdit: "
            f"{PEER_EDIT_SECONDS[name]:.2f}); evaluation {prompts[0]:.2f} CPU ms per prompt at "
            f"first, {prompts[1]:.2f} on kept prefix states (EasyEdit: "
            f"{PEER_PROMPT_MILLISECONDS:.1f})",
            flush=True,
        )


def added() -> None:
    """The slope between two sweeps of trials that edit nothing, by the real command.

    Both are timed from the end of their first trial to the exit of the command, so that starting
    Ray, which takes seconds and varies most, cancels.
    """
    few, many = ADDED_TRIALS
    print(
        f"added: wall seconds of {few} and {many} trials of no_edit by 2 workers, first trial and "
        f"start left out; {os.cpu_count()} cores"
    )
    slopes = []
    for _ in range(ADDED_REPETITIONS):
        costs = {num: _sweep_cost(num) for num in ADDED_TRIALS}
        slope, cpu = ((costs[many][i] - costs[few][i]) / (many - few) for i in (0, 1))
        slopes.append(slope)
        print(
            f"  {few}: {costs[few][0]:.1f}, {many}: {costs[many][0]:.1f}; per added trial "
            f"{slope:.3f}, of the driver {cpu:.3f} CPU s; load of the machine "
            f"{os.getloadavg()[0]:.1f}",
            flush=True,
        )
    print(
        f"  median {median(slopes):.3f}, demand <= {MOST_ADDED_SECONDS}: "
        f"{verdict(median(slopes) <= MOST_ADDED_SECONDS)}; a load above 2 is other work, not ours"
    )


def gpu() -> None:
    """Seconds and peak memory of one batch of edits at the published size."""
    if not torch.cuda.is_available():
        print("gpu: skipped, torch sees no GPU")
        return
    # seven billion weights
    from tests.benchmarks.large import edit_large, published, random_backbone, without_stop

    values = _spec(f"ablation=smoke method=no_edit backbone=facts protocol.num_edits={GPU_BATCH}")
    spec, cache = TrialSpec.parse(values.to_dict()), default_cache()
    source = open_source(spec, cache)
    given = [Edit(r.prompt, r.target_new, r.subject) for r in draw(spec, source).records]
    experts = f"method.num_experts={GPU_EXPERTS}"
    settings = without_stop(published("lemoe", f"method.edit_layer={GPU_LAYER}", experts))
    cost = edit_large(given, random_backbone(Path(backbone_folder(spec, cache))), settings)
    print(
        f"gpu: LEMoE, {GPU_EXPERTS} FFN experts at layer {GPU_LAYER}, {GPU_BATCH} edits: "
        f"{cost.seconds:.1f} s for {cost.num_steps} steps, peak {cost.peak_gib:.1f} GiB, the "
        f"backbone alone {cost.backbone_gib:.1f} (published: 5 minutes, 24 GB)"
    )


def growth() -> None:
    """An edit late in a stream beside an early one."""
    print("growth: on facts, one edit after another")
    spec = _spec("ablation=smoke method=grace backbone=facts protocol.num_edits=560")
    late_edits(Workbench(default_cache()), TrialSpec.parse(spec.to_dict()), "grace")


def batch() -> None:
    """Memory of one large batch; the steps of a vector do not change it."""
    print("batch: on smollm2_135m and countries, two steps a vector")
    spec = _spec(f"ablation=smoke method=memit method.v_num_steps=2 {LARGE_BATCH}")
    large_batch(Workbench(default_cache()), TrialSpec.parse(spec.to_dict()), "memit")


PARTS: dict[str, Callable[[], None]] = {
    "trial": trial,
    "steps": steps,
    "edits": edits,
    "added": added,
    "gpu": gpu,
}
LONG_PARTS: dict[str, Callable[[], None]] = {
    "scale": scaling.many_trials,
    "drivers": scaling.two_drivers,
    "search": scaling.long_search,
    "replay": scaling.long_ledger,
    "workers": scaling.two_workers,
    "growth": growth,
    "batch": batch,
    "packs": packs,
    "singles": singles,
    "stopping": stopping,
    "reports": reports,
    "forecast": forecasts,
    "memory": memories,
    "shared": shared,
    "checkpoints": checkpoints,
}


def _spec(typed: str) -> plan.TrialSpec:
    """The only trial of a command line."""
    (spec,) = plan.expand(config.load([*typed.split(), "seeds=[0]"])).trials
    return spec


def _run(bench: Workbench, spec: plan.TrialSpec) -> dict[str, float]:
    loop = bench.loop(TrialSpec.parse(spec.to_dict()))
    try:
        row = loop.run()
    finally:
        loop.close()
    bench.check_restored()
    return row


def _run_naive(bench: Workbench, spec: plan.TrialSpec) -> dict[str, float]:
    """The same trial on the model and the records that are loaded already."""
    told = TrialSpec.parse(spec.to_dict())
    source = bench.source(told)
    prompts = [each.edit.prompt for each in source.training[:1000]]
    return NaiveTrial(bench.backbone(told), spec.method, prompts).run(
        draw(told, source).records, spec.seed
    )


def _check_agreement(row: dict[str, float], naive: dict[str, float]) -> None:
    """Scores may differ by one token of one prompt in ten thousand, where two logits tie.

    Raises:
        AssertionError: If one differs by more.
    """
    for key, value in naive.items():
        observed = row[f"{key}.final"]
        assert abs(observed - value) < 5e-3, f"{key} is {observed:.4f} here, {value:.4f} naively"


def _edit_seconds(bench: Workbench, loop: EditLoop, spec: plan.TrialSpec) -> float:
    """CPU seconds of editing all records of `loop`, in batches of the protocol's size."""
    tokenizer = bench.backbone(TrialSpec.parse(spec.to_dict())).tokenizer
    given = [Edit(record.prompt, record.target_new, record.subject) for record in loop.records]
    size = spec.protocol["edit_batch_size"]
    method, begin = loop.method, time.process_time()
    for start in range(0, len(given), size):
        method.begin(edit_batch(tokenizer, given[start : start + size], end=True))
        while not method.advance(10):
            pass
        method.finish()
    return time.process_time() - begin


def _prompt_milliseconds(
    bench: Workbench, loop: EditLoop, spec: plan.TrialSpec
) -> tuple[float, float]:
    """CPU milliseconds per prompt, tokenisation included, then again with all that is kept."""
    backbone = bench.backbone(TrialSpec.parse(spec.to_dict()))
    taken = []
    begin = time.process_time()
    evaluator = Evaluator(backbone.tokenizer, loop.records)
    chosen = evaluator.select()
    for _ in range(2):
        evaluator.answers(loop.method.logits, chosen)
        taken.append((time.process_time() - begin) * 1000 / len(chosen))
        begin = time.process_time()
    return taken[0], taken[1]


def _sweep_cost(num_trials: int) -> tuple[float, float]:
    """Wall seconds from the first trial's end to the exit, and CPU seconds of the driver."""
    with tempfile.TemporaryDirectory() as store:
        seeds = ",".join(map(str, range(num_trials)))
        typed = f"ablation=smoke method=no_edit protocol.num_edits=1 workers=2 store={store}"
        command = [sys.executable, str(ROOT / "orchestrator" / "sweep.py"), *typed.split()]
        before = _children_seconds()
        subprocess.run([*command, f"seeds=[{seeds}]"], check=True, capture_output=True, cwd=store)
        end = time.time()
        ends = Ledger.read(store).ends.values()
        assert len(ends) == num_trials
        return end - min(row.time for row in ends), _children_seconds() - before


def _children_seconds() -> float:
    """CPU seconds of all processes that this one started and that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _spread(values: Sequence[float], digits: int = 2) -> str:
    return (
        f"{min(values):.{digits}f} to {max(values):.{digits}f}, median {median(values):.{digits}f}"
    )


def _shown(scores: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.3f}" for key, value in scores.items())


def main(arguments: Sequence[str]) -> int:
    """Print the parts that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("options", nargs="*", metavar="only=PART")
    parts, chosen = PARTS | LONG_PARTS, list(PARTS)
    for option in parser.parse_args(arguments).options:
        key, _, name = option.partition("=")
        if key != "only" or name not in parts:
            parser.error(f"{option!r} is not known; allowed: only={'|'.join(parts)}")
        chosen = [name]
    torch.set_num_threads(1)
    for name in chosen:
        parts[name]()
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main(sys.argv[1:]))
