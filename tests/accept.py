"""The command `make accept`: what the embedded backbones show, beside what they must show.

Each value is the mean over three seeds. A seed trains another backbone, which takes minutes once,
and draws the edits anew on it: a backbone of one recipe and seed comes out otherwise on another
processor, so that values on one alone would be that backbone's. Every arm is written as it would be
typed for a sweep and runs in this process, without Ray. Exit status 1 when a value misses its
demand.

    python tests/accept.py [only=TEXT ...]     only checks whose name or setting contains a TEXT
    python tests/accept.py part=tune           the values that the demands are derived from
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from scipy.stats import spearmanr

sys.path[0] = str(Path(__file__).resolve().parents[1])

from orchestrator.errors import UsageError
from orchestrator.planning import plan
from orchestrator.settings import loading as config
from tests.acceptance import GECE_RARITY, Check, checks
from trainables.artefacts import Artefacts
from trainables.cache import default_cache
from trainables.edits.frequency import with_gece
from trainables.edits.sources import backbone_folder
from trainables.errors import EditingError
from trainables.spec import TrialSpec
from trainables.trials.loop import MetricRow
from trainables.trials.workbench import Workbench

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
ZSRE_FILE = Path("zsre") / "zsre_eval.jsonl"
NO_DATA = "skipped: EDITING_DATA is not set"


class Measurer:
    """Runs each arm once and remembers its rows."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._bench = Workbench(cache)
        self._rows: dict[str, list[MetricRow]] = {}

    def values(self, check: Check) -> list[float]:
        """The number of `check` for each seed."""
        if check.number == GECE_RARITY:
            return [self._gece_rarity(check.arm, seed) for seed in SEEDS]
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
        folder = self._folder(_spec(f"backbone={backbone} method=no_edit", seed))
        report: dict[str, float] = json.loads((folder / "report.json").read_text())
        return report

    def _folder(self, spec: TrialSpec) -> Path:
        """Of a trial's backbone, which says how far it is while it is trained."""

        def progress(step: int, steps: int, loss: float) -> None:
            if step % 50 == 0:
                made = f"training {spec.backbone.name}, seed {spec.backbone.seed}"
                line = f"{made}: step {step} of {steps}, loss {loss:.3f}"
                print(line, file=sys.stderr, flush=True)

        return Path(backbone_folder(spec, self._cache, progress))

    def _gece_rarity(self, typed: str, seed: int) -> float:
        """Rank correlation of GECE with minus the known frequency, on the backbone of that seed."""
        spec = _spec(typed, seed)
        self._folder(spec)
        known = self._bench.source(spec)
        ranked = with_gece(known, self._bench.backbone(spec), Artefacts(self._cache / "artefacts"))
        pairs = [
            [record.frequency for record in source.records] for source in (known, ranked)
        ]  # minus GECE stands in the place of a frequency
        return float(spearmanr(*pairs).statistic)

    def _arm(self, typed: str) -> list[MetricRow]:
        """A finished row per seed, in the order of the seeds."""
        if typed not in self._rows:
            self._rows[typed] = [self._trial(_spec(typed, seed)) for seed in SEEDS]
        return self._rows[typed]

    def _trial(self, spec: TrialSpec) -> MetricRow:
        self._folder(spec)
        loop = self._bench.loop(spec)
        try:
            row = loop.run()
        finally:
            loop.close()
        self._bench.check_restored()
        return row


def _spec(typed: str, seed: int) -> TrialSpec:
    """The one trial of an arm as typed: the backbone of that seed, edits drawn by that seed."""
    # `smoke` names no axis but the method, which is typed.
    seeds = [f"backbone.seed={seed}", f"seeds=[{seed}]"]
    (planned,) = plan.expand(config.load(["ablation=smoke", *typed.split(), *seeds])).trials
    return TrialSpec.parse(planned.to_dict())


def zsre_file() -> Path | None:
    """The file of real edits below EDITING_DATA, or beside the repository; None without it."""
    named = os.environ.get("EDITING_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder / ZSRE_FILE if named or (folder / ZSRE_FILE).is_file() else None


def on_tune(check: Check) -> Check:
    """The same check on the records from which its demand is derived."""

    def moved(arm: str) -> str:
        return f"{arm} dataset.part=tune"

    return replace(
        check,
        arm=moved(check.arm),
        less_arm=None if check.less_arm is None else moved(check.less_arm),
    )


_LINE = "{:<41} {:>6}  {:<20} {:<13} {:<6} {}"


def main(arguments: Sequence[str]) -> int:
    """Print the table; 0 when every counted value meets its demand, 1 when one misses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("options", nargs="*", metavar="only=TEXT|part=tune")
    only, deriving = [], False
    for option in parser.parse_args(arguments).options:
        key, _, text = option.partition("=")
        if option == "part=tune":
            deriving = True
        elif key == "only":
            only.append(text)
        else:
            parser.error(f"{option!r} is not known; allowed: only=TEXT, several times, part=tune")
    torch.set_num_threads(1)
    zsre, measurer = zsre_file(), Measurer(default_cache())
    chosen = [
        check
        for check in checks(zsre)
        if not only or any(text in check.name or text in check.setting for text in only)
    ]
    if deriving:
        has_part = [each for each in chosen if "=" in each.arm and each.number != GECE_RARITY]
        chosen = [on_tune(check) for check in has_part]
    if not chosen:
        parser.error(f"only={' only='.join(only)}: no check has that in its name or setting")
    seeds = "seeds " + ", ".join(map(str, SEEDS))
    print(
        _LINE.format("check", "mean", seeds, "as stated" if deriving else "demand", "", "setting")
    )
    misses = 0
    for check in chosen:
        held_to = _stated(check) if deriving else _demand(check)
        if zsre is None and "dataset=zsre" in check.arm:
            print(_LINE.format(check.name, "-", "-", held_to, "-", NO_DATA), flush=True)
            continue
        values = measurer.values(check)
        is_met = None if deriving else check.is_met(mean(values))
        misses += is_met is False
        shown = " ".join(f"{value:6.3f}" for value in values)
        verdict = {True: "ok", False: "MISS", None: ""}[is_met]
        row = (check.name, f"{mean(values):.3f}", shown, held_to, verdict, check.setting)
        print(_LINE.format(*row), flush=True)
    if deriving:
        return 0
    print("rows without a demand are shown for comparison")
    print(f"{misses} values miss their demand" if misses else "no value misses its demand")
    return 1 if misses else 0


def _stated(check: Check) -> str:
    return "" if check.on_tune is None else f"{check.on_tune:.3f}"


def _demand(check: Check) -> str:
    return "" if check.bound is None else f"{check.relation} {check.bound:.3f}"


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        sys.exit(main(sys.argv[1:]))
    except (UsageError, EditingError) as error:
        sys.exit(f"error: {error}")
