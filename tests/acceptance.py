"""What `make accept` demands: one `Check` for each published effect that must show here.

Demands come from the part `tune`, whose records no check asks about: each arm was measured there on
the same three backbones (`make accept ARGS=part=tune` does it again) and stands below as `on_tune`.
Of a score, a check demands what other edits reach by chance; of an effect, half. A level that the
claim itself names is a `demand`. A check with neither is shown for comparison and never fails: an
arm beside the one where an effect is looked for, or an effect that was not there on each of the
three backbones of `tune`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from scipy.stats import betabinom

GECE_RARITY = "spearman of GECE with rarity"  # over all records, a backbone for each seed
RELIABILITY, GENERALITY = "reliability.token.final", "generality.token.final"
LOCALITY_FAR = "locality_far.token.final"

EDITS = 90  # thirty on each of three backbones, as in most checks
FALSE_ALARM = 0.001  # of one score: some fifty together miss by chance in one run of twenty


def lowest_by_chance(on_tune: float) -> float:
    """What as many other edits reach, if nothing changed, in all but `FALSE_ALARM` of runs.

    `on_tune` is the share of `EDITS` that was seen. The bound is a quantile of the beta-binomial
    distribution: another sample of a rate of which one sample is known (prior: Jeffreys'). It
    counts a record as one, though it has several phrasings, since these stand or fall together.
    """
    seen = on_tune * EDITS
    return float(betabinom.ppf(FALSE_ALARM, EDITS, seen + 0.5, EDITS - seen + 0.5)) / EDITS


@dataclass(frozen=True)
class Check:
    """One demand on the mean of a number over the seeds.

    Attributes:
        name: What is shown.
        arm: `key=value` settings of the trials, or a backbone's name for its own recall.
        number: Key of the trial's row, or of the backbone's report; or GECE_RARITY.
        relation: `within` bounds the absolute value.
        demand: The bound, where the claim names it.
        on_tune: The mean on the part `tune`, from which the bound follows otherwise.
        less: Key of the same row that is subtracted.
        less_arm: Settings whose trials' `number` is subtracted, seed by seed.
    """

    name: str
    arm: str
    number: str
    relation: Literal[">=", "<=", "within"] = ">="
    demand: float | None = None
    on_tune: float | None = None
    less: str | None = None
    less_arm: str | None = None

    @property
    def bound(self) -> float | None:
        """What the mean is held to; None for a check that is only shown."""
        if self.demand is not None or self.on_tune is None:
            return self.demand
        is_effect = self.less is not None or self.less_arm is not None
        return self.on_tune / 2 if is_effect else lowest_by_chance(self.on_tune)

    @property
    def setting(self) -> str:
        """The arm without what the table's reader knows or does not need."""
        words = self.arm.split()
        shown = " ".join(
            word.removeprefix("method.").removeprefix("protocol.")
            for word in words
            if not word.startswith("dataset.path=")
        )
        if self.less_arm is None:
            return shown
        other = [word for word in self.less_arm.split() if word not in words]
        return f"{shown} minus {' '.join(word.rpartition('.')[2] for word in other)}"

    def is_met(self, observed: float) -> bool | None:
        """True when the mean lies inside the bound; None where there is none."""
        if self.bound is None:
            return None
        if self.relation == ">=":
            return observed >= self.bound
        return (observed if self.relation == "<=" else abs(observed)) <= self.bound


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
    # All records, as published.
    real = f"dataset.path={zsre} dataset.keep_unchanged=true"
    preset = f"{_FT_ZSRE} {real}"
    return (
        Check("recall, trained phrasings", "facts", "train_exact", demand=0.90),
        Check("recall, held-out phrasings", "facts", "held_out_exact", demand=0.75),
        *_three_checks("LEMoE", unequal, (0.983, 0.826, 0.881)),
        Check(
            "LEMoE reliability, order",
            unequal,
            RELIABILITY,
            on_tune=0.293,
            less_arm=f"{_LEMOE}random",
        ),
        Check("GRACE far locality", _GRACE, LOCALITY_FAR, demand=0.99),
        Check(
            "GRACE generality above its floor",
            _GRACE,
            GENERALITY,
            "within",
            0.08,
            less="generality.token.before",
        ),
        Check("FT far locality", f"{preset} {_FT_WHOLE}", LOCALITY_FAR, "<=", 0.40),
        _forgets("FT", f"{preset} {_FT_WHOLE}", 0.376),
        Check("FT far locality", preset, LOCALITY_FAR),
        _forgets("FT", preset),
        Check(
            "LoRA reliability, rank",
            f"{_LORA}64",
            RELIABILITY,
            on_tune=0.600,
            less_arm=f"{_LORA}4",
        ),
        *_three_checks("MEMIT 30 edits", _MEMIT_30, (0.956, 0.858, 0.958)),
        *_three_checks("MEMIT 100 edits", f"{_MEMIT_100}500", (0.833, 0.586, 0.923)),
        *_serial_checks(real),
        *_memoe_v1_checks(real),
        *_memoe_v2_checks(real),
        *_editor_checks(),
    )


def _forgets(name: str, arm: str, on_tune: float | None = None) -> Check:
    """What later edits cost the earlier ones."""
    return Check(
        f"{name} forgets: immediate less final",
        arm,
        "reliability.token.immediate",
        on_tune=on_tune,
        less=RELIABILITY,
    )


def _three_checks(name: str, arm: str, on_tune: tuple[float, float, float]) -> Iterator[Check]:
    numbers = {
        "reliability": RELIABILITY,
        "generality": GENERALITY,
        "far locality": LOCALITY_FAR,
    }
    for (shown, number), seen in zip(numbers.items(), on_tune, strict=True):
        yield Check(f"{name}, {shown}", arm, number, on_tune=seen)


# Reliability, generality, far locality on the part `tune`, with the presets of `facts`. What trains
# a network there holds the records out that it is asked. Retrieval is not among them: a backbone
# that never saw a text in front of a prompt does not read it.
_ON_TUNE = {
    "lora": (1.000, 0.886, 0.803),
    "ft_ewc": (1.000, 0.919, 0.961),
    "locft_bf": (0.989, 0.928, 0.947),
    "rome": (0.717, 0.603, 0.983),
    "r_rome": (0.611, 0.569, 0.950),
    "alphaedit": (0.706, 0.475, 0.931),
    "comeba_hk": (0.883, 0.736, 0.986),
    "ultraedit": (0.961, 0.928, 0.908),
    "memoir": (0.967, 0.896, 0.979),
    "defer": (0.967, 0.867, 0.989),
    "mend": (0.933, 0.896, 1.000),
    "malmen": (0.867, 0.844, 0.956),
    "serac": (0.783, 0.739, 1.000),
}
_OF_ITS_OWN = {
    "mend": "protocol.kind=single protocol.num_edits=20",
    "memoir": "protocol.num_edits=20",
}


def _editor_checks() -> Iterator[Check]:
    """Each further editor learns its edits, knows them reworded and leaves far questions alone."""
    for method, seen in _ON_TUNE.items():
        protocol = _OF_ITS_OWN.get(method, "protocol.num_edits=30")
        yield from _three_checks(method, f"method={method} backbone=facts {protocol}", seen)


_FACTS = "backbone=facts_wd5"
_ZSRE = "backbone=facts_zsre dataset=zsre"
_CONSISTENCY = "routing_consistency"


def _serial_checks(path: str) -> Iterator[Check]:
    """ARM, WISE and GRACE where the same questions are edited again and again."""
    serial = "protocol.kind=serial protocol.answers_per_question=8 protocol.num_questions="
    many, few = f"{_ZSRE} {path} {serial}25", f"{_ZSRE} {path} {serial}15"
    arm, grace, wise = "method=arm", "method=grace", "method=wise_retrieval method.edits_per_memory"
    yield Check("ARM reliability", f"{many} {arm}", RELIABILITY, on_tune=0.592)
    yield Check("ARM far locality", f"{many} {arm}", LOCALITY_FAR, on_tune=0.943)
    # A new memory at half of the stream, as in the published comparison.
    half = f"{many} {wise}=100"
    less_wise = Check(
        "ARM less WISE-Retrieval", f"{many} {arm}", RELIABILITY, on_tune=0.220, less_arm=half
    )
    yield less_wise
    yield Check(
        "WISE stale answers less ARM's",
        half,
        "stale_rate",
        less_arm=f"{many} {arm}",
    )
    yield Check(
        "GRACE reliability above its floor",
        f"{many} {grace}",
        RELIABILITY,
        "within",
        0.10,
        less="reliability.token.before",
    )
    few_arm, few_grace = f"{few} {arm}", f"{few} {grace}"
    yield Check(
        "GRACE, equal keys overwritten",
        f"{few_grace} method.on_equal_key=overwrite",
        RELIABILITY,
        on_tune=0.338,
        less_arm=few_grace,
    )
    yield Check(
        "ARM, EMR against TIES",
        few_arm,
        RELIABILITY,
        on_tune=0.111,
        less_arm=f"{few_arm} method.merging=ties",
    )
    yield Check(
        "ARM, EMR against unmerged",
        few_arm,
        RELIABILITY,
        demand=-0.10,
        less_arm=f"{few_arm} method.merging=none",
    )
    same = Check(
        "ARM, same expert for a question",
        f"{_FACTS} {serial}15 {arm}",
        "same_expert_rate",
        on_tune=0.952,
    )
    yield same
    yield replace(same, arm=few_arm, on_tune=None)
    by_activation = f"{few_arm} method.inference_routing=activation"
    yield Check(
        "ARM by activation, against chance",
        by_activation,
        RELIABILITY,
        less_arm=f"{by_activation} method.expert_selection=random",
    )


# Subjects as anchors, and half the rate, so that 40 steps end at a reliability of .96 and not at
# the ceiling, where nothing differs. The heavier balance loss evens the loads: a router that sends
# half of all tokens to one expert is consistent without any merit.
_BELOW_CEILING = "method.anchor_source=subject method.edit_lr=0.0015 method.balance_weight=0.3"


def _memoe_v1_checks(path: str) -> Iterator[Check]:
    """Knowledge anchors, five batches of 30."""
    ask = "protocol.num_edits=30 protocol.num_batches=5 method=memoe_v1"
    preset, real = f"{_FACTS} {ask}", f"{_ZSRE} {path} {ask}"
    made_up = f"{preset} {_BELOW_CEILING}"
    token, sentence = "method.routing_input=token", "method.routing_input=sentence"

    def less(name: str, number: str, arm: str, other: str, on_tune: float | None = None) -> Check:
        return Check(f"MEMoE v1 {name}", arm, number, on_tune=on_tune, less_arm=f"{arm} {other}")

    less_token = "generality, anchor less token"
    yield less(less_token, GENERALITY, made_up, token, 0.030)
    yield less(less_token, GENERALITY, preset, token)
    yield less("generality, anchor less sentence", GENERALITY, made_up, sentence, 0.033)
    yield less(less_token, GENERALITY, real, token, 0.012)
    less_token = "consistency, anchor less token"
    yield less(less_token, _CONSISTENCY, made_up, token, 0.300)
    yield less(less_token, _CONSISTENCY, preset, token)
    yield less(less_token, _CONSISTENCY, real, token, 0.243)
    raw = "method.anchor_scale=raw"
    yield less("consistency, anchor rescaled", _CONSISTENCY, made_up, raw, 0.228)
    yield from _three_checks("MEMoE v1", preset, (0.997, 0.969, 0.972))
    yield from _three_checks("MEMoE v1", real, (0.976, 0.848, 0.921))


def _memoe_v2_checks(path: str) -> Iterator[Check]:
    """Experts by frequency, three batches of 30."""
    ask = "protocol.num_edits=30 protocol.num_batches=3 method="
    made_up, real = f"backbone=facts {ask}memoe_v2", f"{_ZSRE} {path} {ask}memoe_v2"
    yield from _three_checks("MEMoE v2", made_up, (0.930, 0.863, 0.997))
    yield from _three_checks("MEMoE v2", real, (0.966, 0.771, 0.981))
    yield Check(
        "MEMoE v2 GECE ranks by rarity", "method=memoe_v2 backbone=facts", GECE_RARITY, demand=0.20
    )

    def less(name: str, number: str, arm: str, other: str, on_tune: float | None = None) -> Check:
        words = dict(word.split("=", 1) for word in f"{arm} {other}".split())
        less_arm = " ".join(f"{key}={value}" for key, value in words.items())
        return Check(f"MEMoE v2 {name}", arm, number, on_tune=on_tune, less_arm=less_arm)

    dense, linear = "method=dense_adapter", "method.router=linear"
    yield less("far locality, less dense", LOCALITY_FAR, real, dense, 0.394)
    yield less("far locality, less dense", LOCALITY_FAR, made_up, dense, 0.130)
    # With the router of printed shapes: its gates grow slowly, and what labels are for shows. The
    # default router learns the edits without them too.
    outer, made_up_outer = (f"{arm} method.router=outer" for arm in (real, made_up))
    no_division, no_label = "reliability, less no division", "reliability, less no L_router"
    undivided, unlabelled = "method.division=none", "method.router_term=false"
    yield less(no_division, RELIABILITY, outer, undivided, 0.184)
    yield less(no_label, RELIABILITY, outer, unlabelled, 0.125)
    yield less(no_label, RELIABILITY, made_up_outer, unlabelled, 0.091)
    yield less(no_division, RELIABILITY, real, undivided)
    yield less(no_label, RELIABILITY, real, unlabelled)
    yield less("generality, less linear router", GENERALITY, real, linear, 0.159)
    yield less("generality, less linear router", GENERALITY, made_up, linear, 0.074)
    on_prompts, on_answers = "reliability, KL not on answers", "method.balance_positions=answer"
    yield less(on_prompts, RELIABILITY, real, on_answers, 0.449)
    yield less(on_prompts, RELIABILITY, made_up, on_answers, 0.493)
    stream = f"{_ZSRE} {path} protocol.kind=lifelong protocol.num_edits=100 protocol.num_batches=10"
    yield _forgets("MEMoE v2", f"{stream} method=memoe_v2", 0.531)
