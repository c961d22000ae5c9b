"""The forecast of each method's trial beside what it takes: CPU-seconds and peak memory.

On `facts` and on a random Llama of width 512, made here, with the vocabulary and questions of
`facts`. Each trial runs in a process of its own with an empty store of artefacts, so that its peak
is its own and it makes all that is made once; a small trial before it imports what is needed.

    python -m tests.benchmarks.forecasts SPEC CACHE     one trial; prints its two numbers as JSON
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.forecast.calibration import calibrated
from orchestrator.forecast.estimate import once_seconds, rough_seconds
from orchestrator.forecast.memory import memory
from orchestrator.planning import plan
from orchestrator.settings import loading as config
from orchestrator.settings.yaml_files import SearchSpaces
from trainables.spec import TrialSpec

ROOT = Path(__file__).resolve().parents[2]
MOST_FACTOR = 2.0
_EDITS = {"facts": 10, "wide": 4}
_WIDTH, _FFN, _LAYERS, _HEADS = 512, 1408, 8, 8


@dataclass(frozen=True)
class Measured:
    """CPU-seconds of a trial and the peak memory of its process, 2**30 bytes."""

    cpu_seconds: float
    peak_gib: float


def forecasts() -> None:
    """One line per method and backbone, with both ratios, and the number of misses."""
    from trainables.cache import default_cache
    from trainables.edits.sources import backbone_folder

    flops = calibrated()
    print(f"forecast: one trial each, {flops / 1e9:.0f} billion operations a second")
    print(
        f"  {'method':<18}{'backbone':<10}{'CPU s':>8}{'forecast':>10}{'ratio':>7}"
        f"{'GiB':>8}{'forecast':>10}{'ratio':>7}"
    )
    misses = 0
    with tempfile.TemporaryDirectory() as folder:
        facts = Path(
            backbone_folder(TrialSpec.parse(_spec("no_edit", "facts").to_dict()), default_cache())
        )
        wide = _wide(facts, Path(folder) / "wide")
        for backbone in _EDITS:
            for method in SearchSpaces().names("method"):
                spec = _spec(method, backbone, wide)
                seconds = rough_seconds(spec, flops) + once_seconds([spec], cpu_flops=flops)
                gib = memory(spec).peak_gib
                found = _measured(spec, Path(folder), facts)
                ratios = found.cpu_seconds / seconds, found.peak_gib / gib
                is_far = [not 1 / MOST_FACTOR <= ratio <= MOST_FACTOR for ratio in ratios]
                misses += sum(is_far)
                print(
                    f"  {method:<18}{backbone:<10}"
                    f"{found.cpu_seconds:>8.2f}{seconds:>10.2f}{ratios[0]:>7.2f}"
                    f"{found.peak_gib:>8.2f}{gib:>10.2f}{ratios[1]:>7.2f}"
                    f"{'  MISS' if any(is_far) else ''}",
                    flush=True,
                )
    print(f"  {misses} misses; demand: none beyond a factor of {MOST_FACTOR:g}")


def _spec(method: str, backbone: str, wide: Path | None = None) -> plan.TrialSpec:
    typed = [
        "ablation=smoke",
        f"method={method}",
        "backbone=facts",
        f"protocol.num_edits={_EDITS[backbone]}",
        "seeds=[0]",
    ]
    if backbone == "wide":
        typed.append(f"backbone.model={wide}")
        if "anchor_source" in SearchSpaces().load("method", method):
            typed.append("method.anchor_source=subject")  # as on `facts`
    (spec,) = plan.expand(config.load(typed)).trials
    return spec


def _wide(facts: Path, folder: Path) -> Path:
    """A random checkpoint with the tokenizer of `facts`, and its list of known questions."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(facts)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=_FFN,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copy(facts / "known.json", folder)
    return folder


def _measured(spec: plan.TrialSpec, folder: Path, facts: Path) -> Measured:
    cache = folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    (cache / "backbones").symlink_to(facts.parent)
    written = folder / "spec.json"
    written.write_text(json.dumps(spec.to_dict()))
    made = subprocess.run(
        [sys.executable, "-m", __spec__.name, str(written), str(cache)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return Measured(**json.loads(made.stdout.splitlines()[-1]))


def _run(written: Path, cache: Path) -> dict[str, float]:
    import trainables.trials.ray_trial  # noqa: F401 - Ray, as in an actor
    from trainables.trials.ray_ranks import quiet_process
    from trainables.trials.workbench import Workbench

    quiet_process()
    spec: dict[str, Any] = json.loads(written.read_text())
    bench = Workbench(cache)
    _trial(
        bench,
        {**spec, "seed": 10**6, "protocol": {**spec["protocol"], "num_edits": 1}}
        | {"method": _warm_up()},
    )
    begin = time.process_time()
    _trial(bench, spec)
    taken = time.process_time() - begin
    # On Linux in KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"cpu_seconds": taken, "peak_gib": peak}


def _warm_up() -> dict[str, Any]:
    return {**_spec("ft_m", "facts").method, "num_steps": 1, "edit_layer": 1}


def _trial(bench: Any, spec: Mapping[str, Any]) -> None:
    loop = bench.loop(TrialSpec.parse(spec))
    try:
        loop.run()
    finally:
        loop.close()
    bench.check_restored()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    print(json.dumps(_run(Path(sys.argv[1]), Path(sys.argv[2]))))
