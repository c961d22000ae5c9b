"""How each setting that a paper states is met: checks of the plans of all its ablations.

The settings are those of `analysis/paper_tables/hyperparameters.csv`, read in the papers' text.
"""

from __future__ import annotations

import csv
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from analysis.published import compare
from orchestrator.planning.plan import Plan, TrialSpec, expand
from orchestrator.settings.loading import load
from orchestrator.settings.yaml_files import SearchSpaces
from tests.contract.network_checks import MET_BY_NETWORKS
from trainables.methods import module_of
from trainables.optimise import OptimiserSettings

ROOT = Path(__file__).resolve().parents[2]
LLAMA, GPT2 = "llama2_7b", "gpt2_xl"

Setting: TypeAlias = tuple[str, str, str]  # paper, method, setting
Check: TypeAlias = Callable[[str, str], None]  # of paper and stated value; raises AssertionError


@dataclass(frozen=True)
class Row:
    """One stated setting."""

    paper: str
    method: str
    setting: str
    value: str

    @property
    def key(self) -> Setting:
        return self.paper, self.method, self.setting


def rows() -> list[Row]:
    path = ROOT / "analysis" / "paper_tables" / "hyperparameters.csv"
    with path.open(encoding="utf-8", newline="") as lines:
        found = csv.DictReader(lines)
        return [Row(r["paper"], r["method"], r["setting"], r["value"]) for r in found]


@cache
def plan(ablation: str, backbone: str = LLAMA) -> Plan:
    words = [f"ablation={ablation}", "scale=paper", f"backbone={backbone}"]
    return expand(load([*words, "dataset.max_edits=null"]))  # not cut to what the made-up world has


@cache
def ablations(paper: str) -> tuple[str, ...]:
    """All ablations whose tables are the paper's."""
    return tuple(
        name
        for name in SearchSpaces().names("ablation")
        if any(table.startswith(f"{paper}_") for table in plan(name).config.paper)
    )


def number(text: str) -> Any:
    return [number(part) for part in text.split(";")] if ";" in text else float(text)


def is_swept(spec: TrialSpec, key: str) -> bool:
    origin = spec.origins.get(key)
    return origin is not None and origin.source.startswith(("axis", "arm"))


def trials(paper: str, method: str, key: str, backbone: str) -> Iterator[TrialSpec]:
    """The method's trials in all plans of the paper that do not vary this key."""
    for ablation in ablations(paper):
        for spec in plan(ablation, backbone).trials:
            if spec.method["name"] == method and not is_swept(spec, key):
                yield spec


def fixed(methods: str, name: str, value: Any = None, backbone: str = LLAMA) -> Check:
    """In every trial of these methods the field has the stated value, or `value`."""

    def check(paper: str, stated: str) -> None:
        wanted = number(stated) if value is None else value
        seen = 0
        for method in methods.split():
            for spec in trials(paper, method, f"method.{name}", backbone):
                assert spec.method[name] == wanted, (spec.arm, spec.origins[f"method.{name}"])
                seen += 1
        assert seen, f"no trial of {methods} in {ablations(paper)}"

    return check


def values_of(key: str, *names: str) -> Check:
    """The ablations of these names run at least all stated values of a key."""

    def check(paper: str, stated: str) -> None:
        wanted = {float(value) for value in stated.split(" ")[0].split(";")}
        part, _, name = key.partition(".")
        run = {getattr(spec, part).get(name) for each in names for spec in plan(each).trials}
        assert wanted <= {float(value) for value in run if value is not None}

    return check


def protocol(ablation: str, only: str = "", **wanted: Any) -> Check:
    """Trials of an ablation, or those of one arm, have this protocol."""

    def check(paper: str, stated: str) -> None:
        specs = [s for s in plan(ablation).trials if not only or s.swept.get("arm") == only]
        assert specs
        for spec in specs:
            assert {key: spec.protocol.get(key) for key in wanted} == wanted

    return check


def optimiser(name: str, *methods: str) -> Check:
    """The methods' files ask for this optimiser."""

    def check(paper: str, stated: str) -> None:
        for method in methods:
            module = __import__(module_of(method), fromlist=["METHOD"])
            assert f'"{name}"' in inspect.getsource(module), method

    return check


def methods_in(ablation: str, *names: str) -> Check:
    def check(paper: str, stated: str) -> None:
        assert {spec.method["name"] for spec in plan(ablation).trials} == set(names)

    return check


def seeds(ablation: str) -> Check:
    def check(paper: str, stated: str) -> None:
        assert len(plan(ablation).config.seeds) == int(stated)

    return check


def every(*checks: Check) -> Check:
    def check(paper: str, stated: str) -> None:
        for each in checks:
            each(paper, stated)

    return check


def row_filter(paper: str, stated: str) -> None:
    wanted = {"reliability": 0.1, "generality": 0.1, "locality": 0.5}
    assert stated == ", ".join(f"{name} >= {least}" for name, least in wanted.items())
    assert dict(compare.FILTER) == wanted


def _of_fine_tuning(paper: str) -> dict[Setting, Check]:
    return {
        (paper, "FT-L", "edited_layer_gpt2_xl"): fixed("ft_l", "edit_layer", backbone=GPT2),
        (paper, "FT-L", "edited_layer_llama2_7b"): fixed("ft_l", "edit_layer"),
        (paper, "FT-L / FT-M", "optimization_steps"): fixed("ft_l ft_m", "num_steps"),
        (paper, "FT-L / FT-M", "learning_rate"): fixed("ft_l ft_m", "edit_lr"),
        **_of_grace(paper),
    }


def _of_lora(paper: str) -> dict[Setting, Check]:
    return _of(
        paper,
        "LoRA",
        learning_rate=fixed("lora", "edit_lr"),
        rank=every(fixed("lora", "lora_rank"), fixed("lora", "lora_rank", backbone=GPT2)),
        alpha=fixed("lora", "lora_alpha"),
        dropout=fixed("lora", "dropout"),
        steps_gpt2_xl=fixed("lora", "num_steps", backbone=GPT2),
        steps_llama2_7b=fixed("lora", "num_steps"),
    )


def _of_memoe(paper: str, method: str) -> dict[Setting, Check]:
    sequential = {"num_edits": 1000, "edit_batch_size": 10}
    met = {
        "num_experts": fixed(method, "num_experts"),
        "top_k": fixed(method, "top_k"),
        "edited_layer_llama2_7b": fixed(method, "edit_layer"),
        "edited_layer_gpt2_xl": fixed(method, "edit_layer", backbone=GPT2),
        "learning_rate": fixed(method, "edit_lr"),
        "batch_size_batch_editing": protocol("memoe_batch", kind="batch", num_edits=30),
        "batch_size_sequential_batch": protocol("memoe_sequential", **sequential),
        "total_edits_sequential_batch": protocol("memoe_sequential", **sequential),
        "batch_sizes_scaling_test": values_of("protocol.num_edits", "memoe_batch_size"),
    }
    return {(paper, "MEMoE", setting): check for setting, check in met.items()}


def _of(paper: str, method: str, **checks: Check) -> dict[Setting, Check]:
    return {(paper, method, setting): check for setting, check in checks.items()}


def _of_grace(paper: str, **more: Check) -> dict[Setting, Check]:
    return _of(
        *(paper, "GRACE"),
        learning_rate=fixed("grace", "edit_lr"),
        iterations=fixed("grace", "num_steps"),
        initial_radius=fixed("grace", "deferral_radius"),
        **more,
    )


EVEN = tuple(range(0, 31, 2))
MET: dict[Setting, Check] = MET_BY_NETWORKS | {
    **_of_fine_tuning("memoe_v1"),
    **_of_fine_tuning("memoe_v2"),
    **_of_lora("memoe_v1"),
    **_of_lora("memoe_v2"),
    ("memoe_v1", "FT-L / FT-M", "optimizer"): optimiser("adam", "ft"),
    **_of_memoe("memoe_v1", "memoe_v1"),
    ("memoe_v1", "MEMoE", "num_experts_tested_max"): values_of(
        "method.num_experts", "memoe_experts"
    ),
    ("memoe_v1", "MEMoE", "top_k_tested"): every(
        lambda paper, stated: values_of("method.top_k", "memoe_topk")(paper, "1;2;3"),
        lambda paper, stated: _soft("soft"),
    ),
    ("memoe_v1", "MEMoE", "layers_tested"): values_of("method.edit_layer", "memoe_grid"),
    ("memoe_v1", "MEMoE", "auxiliary_load_balance_loss"): fixed("memoe_v1", "balance_weight", 1e-2),
    ("memoe_v1", "MEMoE", "anchor_extractor"): fixed("memoe_v1", "anchor_source", "entity"),
    ("memoe_v1", "MEMoE", "routing_input"): fixed("memoe_v1", "routing_input", "anchor"),
    ("memoe_v1", "MEMoE", "kmeans_groups_for_consistency"): lambda paper, stated: protocol(
        "memoe_specialisation", "10-10-10-10-10", group_sizes=[10] * int(stated)
    )(paper, stated),
    **_of_memoe("memoe_v2", "memoe_v2"),
    ("memoe_v2", "MEMoE", "top_k_tested"): every(
        lambda paper, stated: values_of("method.top_k", "memoe_topk")(paper, "1;2;3"),
        lambda paper, stated: _soft("by_frequency_soft"),
    ),
    ("memoe_v2", "MEMoE", "bypass_weight"): fixed("memoe_v2", "bypass_weight"),
    ("memoe_v2", "MEMoE", "cluster_balance_strength"): fixed("memoe_v2", "cluster_balance_weight"),
    ("memoe_v2", "MEMoE", "weight_threshold"): fixed("memoe_v2", "frequency_threshold"),
    ("memoe_v2", "MEMoE", "weight_slope"): fixed("memoe_v2", "frequency_slope"),
    ("memoe_v2", "MEMoE", "balance_loss_slope"): fixed("memoe_v2", "balance_slope"),
    ("memoe_v2", "MEMoE", "router_focus"): fixed("memoe_v2", "focal_power"),
    ("memoe_v2", "MEMoE", "loss_weights"): every(
        fixed("memoe_v2", "balance_weight", 1.0), fixed("memoe_v2", "router_weight", 1.0)
    ),
    ("memoe_v2", "MEMoE", "router_granularity"): fixed("memoe_v2", "gate", "single"),
    ("memoe_v2", "MEMoE", "optimizer"): optimiser("adamw", "memoe_v2"),
    ("memoe_v2", "MEMoE", "adam_beta1"): lambda paper, stated: _betas(0, stated),
    ("memoe_v2", "MEMoE", "adam_beta2"): lambda paper, stated: _betas(1, stated),
    ("memoe_v2", "MEMoE", "schedule"): every(
        fixed("memoe_v2", "schedule", "cosine"), fixed("memoe_v2", "warmup_share", 0.1)
    ),
    ("memoe_v2", "analysis", "frequency_buckets"): protocol(
        "memoe_frequency", "buckets", num_edits=30, num_batches=20
    ),
    ("memoe_v2", "analysis", "bucket_batch_size"): protocol("memoe_frequency", num_edits=30),
    ("memoe_v2", "analysis", "head_and_tail_share"): lambda paper, stated: _bands(),
    ("memoe_v2", "analysis", "repeats"): seeds("memoe_frequency"),
    ("memoe_v2", "analysis", "editors_analysed"): methods_in("memoe_frequency", "memit", "grace"),
    **_of(
        *("lemoe", "LEMoE"),
        edited_layer=fixed("lemoe", "edit_layer"),
        top_k=fixed("lemoe", "top_k"),
        num_experts_max=every(
            fixed("lemoe", "num_experts", 1), protocol("lemoe_lifelong", "lemoe", num_batches=5)
        ),
        sequential_steps=protocol("lemoe_lifelong", "lemoe", num_batches=5),
        batch_size_lifelong_T100=lambda paper, stated: _edits_a_step(100, stated),
        batch_size_lifelong_T1000=lambda paper, stated: _edits_a_step(1000, stated),
        batch_size_batch_editing=protocol("lemoe_batch", num_edits=30),
        bypass_weight=fixed("lemoe", "bypass_weight"),
        instance_embedding=fixed("lemoe", "embedding", "instance"),
        clustering=protocol("lemoe_lifelong", "lemoe", order="kmeans_filled"),
        optimizer=optimiser("adamw", "lemoe"),
        learning_rate=fixed("lemoe", "edit_lr"),
    ),
    **_of(
        *("lemoe", "conventional MoE"),
        num_experts=fixed("conventional_moe", "num_experts"),
        top_k=fixed("conventional_moe", "top_k"),
        sequential_steps=protocol("lemoe_forgetting", "stream", num_edits=1000, edit_batch_size=10),
        batch_editing_comparison=protocol("lemoe_forgetting", "one_batch", num_edits=1000),
    ),
    **_of(
        *("lemoe", "order analysis"),
        sequential_steps=every(
            protocol("lemoe_order", num_batches=10),
            lambda paper, stated: values_of("protocol.num_edits", "lemoe_order")(paper, "100;1000"),
        ),
        shuffles=lambda paper, stated: values_of("protocol.order_seed", "lemoe_order")(
            paper, ";".join(map(str, range(int(stated.split()[0]))))
        ),
    ),
    **_of(
        *("lemoe", "LEMoE-LoRA"),
        lora_rank_stated=values_of("method.lora_rank", "lemoe_lora"),
        lora_rank_in_table=values_of("method.lora_rank", "lemoe_lora"),
        num_experts=values_of("method.num_experts", "lemoe_lora"),
        top_k_stated=values_of("method.top_k", "lemoe_lora"),
        top_k_in_table=values_of("method.top_k", "lemoe_lora"),
        layers=lambda paper, stated: values_of("method.edit_layer", "lemoe_lora")(
            paper, ";".join(map(str, EVEN))
        ),
        row_filter=row_filter,
        batch_size=protocol("lemoe_lora", num_edits=30, num_batches=1),
    ),
    **_of(
        *("lemoe", "MEMoE"),
        num_experts=fixed("memoe_v1", "num_experts"),
        top_k=fixed("memoe_v1", "top_k"),
        edited_layer=fixed("memoe_v1", "edit_layer"),
        learning_rate=fixed("memoe_v1", "edit_lr"),
    ),
    **_of(
        *("lemoe", "FT-L"),
        optimizer=optimiser("adam", "ft"),
        learning_rate=fixed("ft_l", "edit_lr"),
        iterations=fixed("ft_l", "num_steps"),
        norm_constraint=fixed("ft_l", "norm_bound", 5e-4),  # its size is not printed
    ),
    **_of("lemoe", "ROME", edited_layer=fixed("rome", "edit_layer")),
    **_of(
        *("lemoe", "FT-EWC"),
        learning_rate=fixed("ft_ewc", "edit_lr"),
        penalty=fixed("ft_ewc", "penalty_weight"),
        replay_instances=fixed("ft_ewc", "num_replayed"),
    ),
    **_of("lemoe", "DEFER", learning_rate=fixed("defer", "edit_lr")),
    **_of("lemoe", "MEMIT", edited_layers=fixed("memit", "layers")),
    **_of_grace("lemoe", replacement=fixed("grace", "replacement", "replace_last")),
    **_of(
        *("arm", "ARM"),
        experts_learning_rate=fixed("arm", "edit_lr"),
        projection_router_learning_rate=fixed("arm", "router_lr"),
        mask_ratio=fixed("arm", "mask_ratio"),
        margin_unrelated=fixed("arm", "margin_far"),
        margin_edited=fixed("arm", "margin_edit"),
        margin_difference=fixed("arm", "margin_gap"),
        num_experts=fixed("arm", "num_experts"),
        new_concept_threshold=fixed("arm", "selection_threshold"),
        new_concept_threshold_tested=values_of("method.selection_threshold", "arm_epsilon"),
        edited_layer=fixed("arm", "edit_layer"),
        batch_size=every(
            protocol("arm_serial", edit_batch_size=1), protocol("arm_lifelong", edit_batch_size=1)
        ),
        memory_buffer_max_edits=fixed("arm", "memory_size"),
        augmentation=fixed("arm", "augmentation", "both"),
    ),
    **_of("arm", "FT", edited_layer=fixed("ft_l", "edit_layer")),
    **_of(
        *("arm", "data"),
        updates_per_question=protocol("arm_serial", answers_per_question=8),
        questions_serial=values_of("protocol.num_questions", "arm_serial"),
        edits_serial=lambda paper, stated: _answers("arm_serial", stated),
        edits_lifelong=values_of("protocol.num_edits", "arm_lifelong"),
    ),
}


def _betas(index: int, stated: str) -> None:
    from trainables.methods.memoe_v2 import method

    assert method._BETAS[index] == float(stated)
    assert OptimiserSettings.__dataclass_fields__["betas"]


def _soft(arm: str) -> None:
    (spec, *_) = [spec for spec in plan("memoe_topk").trials if spec.swept["arm"] == arm]
    assert spec.method["merging"] == "soft"


def _bands() -> None:
    bands = {
        spec.swept["arm"]: spec.dataset["frequency_band"] for spec in plan("memoe_frequency").trials
    }
    assert (bands["head"], bands["tail"]) == ([0.0, 0.3], [0.7, 1.0])


def _edits_a_step(num_edits: int, stated: str) -> None:
    sizes = {
        spec.protocol["num_edits"] / spec.protocol["num_batches"]
        for spec in plan("lemoe_lifelong").trials
        if spec.swept["arm"] == "lemoe" and spec.protocol["num_edits"] == num_edits
    }
    assert sizes == {float(stated)}


def _answers(ablation: str, stated: str) -> None:
    edits = {
        spec.protocol["num_questions"] * spec.protocol["answers_per_question"]
        for spec in plan(ablation).trials
    }
    assert edits == set(map(int, stated.split(";")))
