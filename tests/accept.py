"""The command `make accept`: what the embedded backbones show, beside what they must show.

Each value is the mean over three seeds. A seed draws the edits anew on one backbone; for the
backbone's own recall it trains another backbone, which takes minutes once. Every arm is written as
it would be typed for a sweep and runs in this process, without Ray. Exit status 1 when a value
misses its demand.

    python tests/accept.py [only=TEXT]     only the checks whose name or setting contains TEXT
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Literal

import torch

from orchestrator import config, plan
from orchestrator.errors import UsageError
from trainables.edit_loop import MetricRow
from trainables.errors import EditingError
from trainables.workbench import Workbench
from trainables.world import default_cache, ensure_backbone

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
ZSRE_FILE = Path("zsre") / "zsre_eval.jsonl"
NO_DATA = "skipped: EDITING_DATA is not set"

RELIABILITY, GENERALITY = "reliability.token.final", "generality.token.final"
LOCALITY_FAR = "locality_far.token.final"


@dataclass(frozen=True)
class Check:
    """One demand on the mean of a number over the seeds.

    Attributes:
        name: What is shown.
        arm: `key=value` settings of the trials, or a backbone's name for its own recall.
        number: Key of the trial's row, or of the backbone's report.
        relation: `within` bounds the absolute value.
        demand: The bound.
        less: Key of the same row that is subtracted.
        less_arm: Settings whose trials' `number` is subtracted, seed by seed.
        is_counted: False for a row that is shown for comparison alone.
    """

    name: str
    arm: str
    number: str
    relation: Literal[">=", "<=", "within"]
    demand: float
    less: str | None = None
    less_arm: str | None = None
    is_counted: bool = True

    @property
    def setting(self) -> str:
        """The arm without what the table's reader knows or does not need."""
        words = [word for word in self.arm.split() if not word.startswith("dataset.path=")]
        shown = " ".join(word.removeprefix("method.").removeprefix("protocol.") for word in words)
        if self.less_arm is None:
            return shown
        other = [word for word in self.less_arm.split() if word not in words]
        return f"{shown} minus {' '.join(word.rpartition('.')[2] for word in other)}"

    def is_met(self, observed: float) -> bool:
        """True when the mean lies inside the bound."""
        if self.relation == ">=":
            return observed >= self.demand
        return (observed if self.relation == "<=" else abs(observed)) <= self.demand


_STREAM = "protocol.kind=lifelong protocol.num_edits=100"
_LEMOE = f"method=lemoe backbone=facts {_STREAM} protocol.num_batches=5 protocol.order="
_GRACE = f"method=grace backbone=facts {_STREAM} method.deferral_radius=0.5"
_FT_ZSRE = (
    f"method=ft_m backbone=facts_zsre dataset=zsre {_STREAM} protocol.num_batches=20 "
    "protocol.order=random"
)
# Until a batch is learned, as where the demands come from; the preset takes at most 25 steps of
# half the rate, learns less and breaks less.
_FT_WHOLE = "method.edit_layer=6 method.edit_lr=0.01 method.num_steps=50 method.stop_loss=0.02"
_LORA = (
    "method=lemoe_lora backbone=facts_wd5 protocol.num_edits=30 method.edit_layer=9 "
    "method.num_experts=1 method.top_k=1 method.lora_rank="
)
_MEMIT = (
    "method=memit backbone=facts_wd5 method.layers=[0,1,2] method.contexts=0 method.clamp=4 "
    "method.v_lr=0.5 method.v_num_steps=25 "
)
_MEMIT_30 = f"{_MEMIT} protocol.num_edits=30 method.cov_weight=15"
_MEMIT_100 = f"{_MEMIT} protocol.num_edits=100 method.cov_weight="


def checks(zsre: Path | None) -> tuple[Check, ...]:
    """Every check, by backbone; `zsre` is the file of real edits, None where there is none."""
    unequal = f"{_LEMOE}kmeans_unequal"
    preset = f"{_FT_ZSRE} dataset.path={zsre}"
    return (
        Check("recall, trained phrasings", "facts", "train_exact", ">=", 0.90),
        Check("recall, held-out phrasings", "facts", "held_out_exact", ">=", 0.75),
        Check("LEMoE reliability", unequal, RELIABILITY, ">=", 0.75),
        Check("LEMoE generality", unequal, GENERALITY, ">=", 0.40),
        Check("LEMoE far locality", unequal, LOCALITY_FAR, ">=", 0.80),
        Check(
            "LEMoE reliability, order",
            unequal,
            RELIABILITY,
            ">=",
            0.12,
            less_arm=f"{_LEMOE}random",
        ),
        Check("GRACE far locality", _GRACE, LOCALITY_FAR, ">=", 0.99),
        Check(
            "GRACE generality above its floor",
            _GRACE,
            GENERALITY,
            "within",
            0.08,
            less="generality.token.before",
        ),
        *_forgetting_checks(f"{preset} {_FT_WHOLE}"),
        *_forgetting_checks(preset, is_counted=False),
        Check(
            "LoRA reliability, rank", f"{_LORA}64", RELIABILITY, ">=", 0.30, less_arm=f"{_LORA}4"
        ),
        *_memit_checks("MEMIT 30 edits", _MEMIT_30, (0.85, 0.65, 0.85)),
        *_memit_checks("MEMIT 100 edits", f"{_MEMIT_100}500", (0.65, 0.45, 0.85)),
    )


def _forgetting_checks(arm: str, *, is_counted: bool = True) -> tuple[Check, Check]:
    """What fine-tuning on real edits costs: far questions, and its own earlier edits."""
    far = Check("FT far locality", arm, LOCALITY_FAR, "<=", 0.40, is_counted=is_counted)
    lost = replace(
        far,
        name="FT reliability, immediate less final",
        number="reliability.token.immediate",
        less=RELIABILITY,
        relation=">=",
        demand=0.12,
    )
    return far, lost


def _memit_checks(name: str, arm: str, demands: tuple[float, float, float]) -> Iterator[Check]:
    numbers = {
        "reliability": RELIABILITY,
        "generality": GENERALITY,
        "far locality": LOCALITY_FAR,
    }
    for (shown, number), demand in zip(numbers.items(), demands, strict=True):
        yield Check(f"{name}, {shown}", arm, number, ">=", demand)


class Measurer:
    """Runs each arm once and remembers its rows."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._bench = Workbench(cache)
        self._rows: dict[str, list[MetricRow]] = {}

    def values(self, check: Check) -> list[float]:
        """The number of `check` for each seed."""
        if "=" not in check.arm:
            return [self._report(check.arm, seed)[check.number] for seed in SEEDS]
        values = [row[check.number] for row in self._arm(check.arm)]
        if check.less is not None:
            others = [row[check.less] for row in self._arm(check.arm)]
        elif check.less_arm is not None:
            others = [row[check.number] for row in self._arm(check.less_arm)]
        else:
            return values
        return [value - other for value, other in zip(values, others, strict=True)]

    def _report(self, backbone: str, seed: int) -> dict[str, float]:
        """What was measured when the backbone of that seed had been trained."""

        def progress(step: int, steps: int, loss: float) -> None:
            if step % 50 == 0:
                line = f"training {backbone}, seed {seed}: step {step} of {steps}, loss {loss:.3f}"
                print(line, file=sys.stderr, flush=True)

        folder = ensure_backbone(backbone, self._cache / "backbones", seed=seed, progress=progress)
        report: dict[str, float] = json.loads((folder / "report.json").read_text())
        return report

    def _arm(self, typed: str) -> list[MetricRow]:
        """A finished row per seed, in the order of the seeds."""
        if typed not in self._rows:
            seeds = f"seeds=[{','.join(map(str, SEEDS))}]"
            # `smoke` names no axis but the method, which is typed.
            overrides = ["ablation=smoke", *typed.split(), seeds]
            trials = sorted(plan.expand(config.load(overrides)).trials, key=lambda spec: spec.seed)
            self._rows[typed] = [self._trial(spec) for spec in trials]
        return self._rows[typed]

    def _trial(self, spec: plan.TrialSpec) -> MetricRow:
        loop = self._bench.loop(spec.to_dict())
        try:
            row = loop.run()
        finally:
            loop.close()
        self._bench.check_restored()
        return row


def zsre_file() -> Path | None:
    """The file of real edits below EDITING_DATA, or beside the repository; None without it."""
    named = os.environ.get("EDITING_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder / ZSRE_FILE if named or (folder / ZSRE_FILE).is_file() else None


_LINE = "{:<37} {:>6}  {:<20} {:<13} {:<11} {}"


def main(arguments: Sequence[str]) -> int:
    """Print the table; 0 when every counted value meets its demand, 1 when one misses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("options", nargs="*", metavar="only=TEXT")
    only = ""
    for option in parser.parse_args(arguments).options:
        key, _, only = option.partition("=")
        if key != "only":
            parser.error(f"{option!r} is not known; allowed: only=TEXT")
    torch.set_num_threads(1)
    zsre, measurer = zsre_file(), Measurer(default_cache())
    chosen = [c for c in checks(zsre) if only in c.name or only in c.setting]
    if not chosen:
        parser.error(f"only={only}: no check has that in its name or setting")
    print(
        _LINE.format(
            "check", "mean", "seeds " + ", ".join(map(str, SEEDS)), "demand", "", "setting"
        )
    )
    misses = 0
    for check in chosen:
        demand = f"{check.relation} {check.demand:.2f}"
        if zsre is None and "dataset=zsre" in check.arm:
            print(_LINE.format(check.name, "-", "-", demand, "-", NO_DATA), flush=True)
            continue
        values = measurer.values(check)
        is_met = check.is_met(mean(values))
        misses += check.is_counted and not is_met
        verdict = ("ok" if is_met else "MISS") + ("" if check.is_counted else ", shown")
        shown = " ".join(f"{value:6.3f}" for value in values)
        row = (check.name, f"{mean(values):.3f}", shown, demand, verdict, check.setting)
        print(_LINE.format(*row), flush=True)
    print("rows marked `shown` are not counted")
    print(f"{misses} counted values miss their demand" if misses else "no counted value misses")
    return 1 if misses else 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        sys.exit(main(sys.argv[1:]))
    except (UsageError, EditingError) as error:
        sys.exit(f"error: {error}")
