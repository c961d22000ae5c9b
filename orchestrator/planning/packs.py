"""Which trials may be trained together in one process, through the frozen layers they share; pure.

It decides where a trial is trained, never what it is: no part of an identity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from orchestrator.planning.identity import canonical
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.settings.models import SweepConfig

MOST_ON_CPU, MOST_ON_GPU = 4, 16  # trials of a pack that `auto` makes
_PACKS_PER_WORKER = 4  # at least, so that none is idle for long at the end


def may_be_packed(spec: TrialSpec) -> bool:
    """Whether the steps of a trial may be taken with those of others.

    Those of single edits are taken together within the trial already.
    """
    return bool(spec.cost.get("packable")) and spec.protocol["kind"] != "single"


def packs(trials: Mapping[str, TrialSpec], size: int) -> tuple[tuple[str, ...], ...]:
    """Keys of the trials that may be trained together, at most `size` at a time, two at least.

    Those of a pack have backbone, data, protocol and edited layer in common, and differ in what
    their method trains. Neighbours are of different packs: workers that take one trial after the
    other then do not ask for what another one is training at that time.

    Args:
        trials: Specifications by key, in the order in which they are started.
        size: Most trials of a pack.
    """
    alike: dict[str, list[str]] = {}
    for key, spec in trials.items():
        if may_be_packed(spec):
            alike.setdefault(_shared(spec), []).append(key)
    found = []
    for keys in alike.values():
        count = math.ceil(len(keys) / size)
        found += [tuple(keys[number::count]) for number in range(count)]
    return tuple(each for each in found if len(each) > 1)


def automatic_size(num_trials: int, num_workers: int, *, on_gpu: bool) -> int:
    """Trials of a pack with `pack=auto`; 1 where the workers would have too few packs each."""
    most = MOST_ON_GPU if on_gpu else MOST_ON_CPU
    return max(1, min(most, num_trials // (_PACKS_PER_WORKER * num_workers)))


def leaders_first(trials: Mapping[str, TrialSpec], made: Sequence[Sequence[str]]) -> list[str]:
    """Keys in an order in which all packs are trained before a second of any is started.

    One backbone and data set after the other, as a worker keeps what it has loaded.
    """
    others, blocks = {key for pack in made for key in pack[1:]}, dict[str, int]()
    places = {}
    for key, spec in trials.items():
        block = blocks.setdefault(canonical([spec.backbone, spec.dataset]), len(blocks))
        places[key] = block, key in others
    return sorted(trials, key=lambda key: places[key])


def pack_note(config: SweepConfig, trials: Sequence[TrialSpec]) -> str:
    """A line that says how many trials are packed, or why none is; "" where no number is typed.

    Args:
        config: The sweep.
        trials: All of its grid; none of a search.
    """
    size = 1 if config.pack == "auto" else config.pack
    if size == 1:
        return ""
    made = packs({str(number): spec for number, spec in enumerate(trials)}, size)
    if reason := _why_none(config, trials, made):
        return f"pack={size}: nothing is packed: {reason}"
    alone = len(trials) - sum(map(len, made))
    rest = f", {alone} by themselves" if alone else ""
    packed = "1 pack" if len(made) == 1 else f"{len(made)} packs"
    return f"pack={size}: {len(trials) - alone} trials in {packed}{rest}"


def _why_none(
    config: SweepConfig, trials: Sequence[TrialSpec], made: Sequence[Sequence[str]]
) -> str:
    if config.is_search:
        return "a search learns of one trial what the next one is"
    if config.max_trial_seconds is not None:
        return "with max_trial_seconds each trial is timed by itself"
    if config.parallel in ("shard", "data"):
        return f"with parallel={config.parallel} several GPUs or processes share one trial"
    if not any(map(may_be_packed, trials)):
        methods = ", ".join(dict.fromkeys(str(spec.method["name"]) for spec in trials))
        return f"the steps of {methods} are not taken with those of other trials"
    return "" if made else "no two trials have backbone, data, protocol and edited layer in common"


def _shared(spec: TrialSpec) -> str:
    """What the trials of a pack have in common."""
    method = spec.method
    names = {"module": method["module"], "edit_layer": method["edit_layer"]}
    return canonical([names, spec.backbone, spec.dataset, spec.protocol, spec.evaluate])
