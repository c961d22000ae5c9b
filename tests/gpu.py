"""The command `make gpu`: one page on what this machine's GPU makes of the project, in ten minutes.

It runs the tests that need a GPU, every method on LLaMA2-7B's shape with random weights beside the
memory that the forecast counts for it, and a smoke sweep whose trials lie on the GPU. Exit status 1
when a test or a trial fails, 2 where torch sees no GPU.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tabulate import tabulate

sys.path[0] = str(Path(__file__).resolve().parents[1])

from orchestrator.forecast.memory import PROCESS_GIB, memory
from orchestrator.store.ledger import Ledger
from tests.benchmarks.large import edit_large, published, random_backbone, without_stop
from trainables.cache import default_cache
from trainables.edits.drawing import draw
from trainables.edits.sources import backbone_folder, open_source
from trainables.interfaces import Edit
from trainables.spec import TrialSpec

ROOT = Path(__file__).resolve().parents[1]
NUM_EDITS = 30
MOST_SECONDS = 300.0  # for the methods; those that come later are left out and named
# Second moments of as many tokens as the FFN is wide: the memory is that of the published number.
METHODS = {
    "no_edit": (),
    "ft_m": (),
    "grace": ("method.num_steps=10",),
    "lemoe": ("method.num_experts=5",),
    "memoe_v1": ("method.anchor_source=subject",),
    "memoe_v2": (),
    "wise_merge": (),
    "arm": (),
    "memit": ("method.covariance_tokens_per_dim=1",),
    "rome": ("method.covariance_tokens_per_dim=1",),
    "mend": ("method.training_steps=2",),
    "malmen": ("method.training_steps=2", "method.edits_at_once=10"),
    "alphaedit": ("method.covariance_tokens_per_dim=1", "method.null_threshold=1000"),
    "ultraedit": (),
    "memoir": ("method.num_steps=5",),
    "retrieval": (),
    "serac": ("method.scope_steps=2", "method.counterfactual_steps=2"),
}


def main() -> int:
    """Print the page."""
    if not torch.cuda.is_available():
        print(
            f"make gpu: torch {torch.__version__} sees no GPU; where there is one, install its "
            "build: rm -rf .venv && make setup TORCH_ARGS=",
            file=sys.stderr,
        )
        return 2
    properties = torch.cuda.get_device_properties(0)
    print(
        f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 2**30:.0f} "
        f"GiB, torch {torch.__version__}, CUDA {torch.version.cuda}\n"
    )
    is_tested = _tests()
    _methods()
    is_swept = _sweep()
    return 0 if is_tested and is_swept else 1


def _tests() -> bool:
    """Runs the tests marked `gpu`; whether they passed."""
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    print("tests marked gpu:", *failed, lines[-1] if lines else done.stderr.strip(), sep="\n  ")
    return done.returncode == 0


def _methods() -> None:
    """A table of each method's steps and memory; one batch on a backbone of seven billion."""
    spec = TrialSpec.parse(published("no_edit", backbone="facts").to_dict())
    cache = default_cache()
    source = open_source(spec, cache)
    edits = [Edit(r.prompt, r.target_new, r.subject) for r in draw(spec, source).records]
    backbone = random_backbone(Path(backbone_folder(spec, cache)))
    rows: list[list[object]] = []
    begin = time.monotonic()
    for name, typed in METHODS.items():
        planned = published(name, f"protocol.num_edits={NUM_EDITS}", *typed)
        declared = memory(planned).peak_gib - PROCESS_GIB
        if time.monotonic() - begin > MOST_SECONDS:
            rows.append([name, "no time left", "", "", f"{declared:.1f}"])
            continue
        try:
            settings, module = without_stop(planned), planned.method["module"]
            cost = edit_large(edits[:NUM_EDITS], backbone, settings, module, source.training)
        except RuntimeError as error:  # the page says so, and goes on
            rows.append([name, str(error).splitlines()[0], "", "", f"{declared:.1f}"])
            torch.cuda.empty_cache()
            continue
        figures = f"{cost.seconds:.1f}", cost.num_steps, f"{cost.peak_gib:.1f}", f"{declared:.1f}"
        rows.append([name, *figures])
    heads = ["method", "s", "steps", "peak GiB", "forecast GiB"]
    print(f"\nLLaMA2-7B's shape in bfloat16, one batch of {NUM_EDITS} edits:")
    print(tabulate(rows, heads), "\n")


def _sweep() -> bool:
    """Runs the smoke ablation on the GPU; whether all its trials finished there."""
    with tempfile.TemporaryDirectory() as store:
        words = [sys.executable, "orchestrator/sweep.py", "ablation=smoke", f"store={store}"]
        # A backbone that needs so much is worth the way to a GPU.
        words += ["backbone=facts_tiny", "backbone.memory_gib=1"]
        begin = time.monotonic()
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        ends = list(Ledger.read(store).ends.values())
    finished = [end for end in ends if end.status == "finished" and end.gpu]
    print(
        f"smoke sweep: {len(finished)} of {len(ends)} trials finished on a GPU in "
        f"{time.monotonic() - begin:.0f} s"
    )
    print(*[f"  {end.error or end.device}" for end in ends if end not in finished], sep="\n")
    return done.returncode == 0 and len(finished) == len(ends) > 0


if __name__ == "__main__":
    sys.exit(main())
