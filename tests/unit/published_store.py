"""A store with a trial or two for every published table: what small sweeps would have left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.analysis_store import BATCH, Writer

STREAM = BATCH | {"kind": "lifelong", "num_edits": 40, "edit_batch_size": 10, "num_batches": 4}
SINGLE_EDITS = STREAM | {"edit_batch_size": 1, "num_batches": 40}
SERIAL = {
    **{"kind": "serial", "num_edits": 120, "edit_batch_size": 1, "num_batches": 120},
    **{"num_questions": 15, "answers_per_question": 8, "order": "given", "answers": "generated"},
}
GOOD, FAIR, POOR = (0.9, 0.6, 0.9), (0.7, 0.5, 0.9), (0.2, 0.1, 0.3)  # averages .8, .7, .2


def published_store(factory: pytest.TempPathFactory) -> Path:
    """The store that all tests share, filled on first use."""
    store = factory.getbasetemp() / "published_store"
    if not store.exists():
        store.mkdir()
        write = Writer(store)
        _memoe(write)
        _figures(write)
        _lemoe(write)
        _arm(write)
    return store


def arms(
    write: Writer,
    paper: str,
    named: Mapping[str, tuple[float, float, float]],
    protocol: Mapping[str, Any] = BATCH,
    **tags: Any,
) -> None:
    """One trial for each named arm of an ablation that is called as its table."""
    for name, scores in named.items():
        own = {"method": name, "swept": {"arm": name}} | tags
        write.trial(paper.split(", ")[0], name, 0, scores, paper=paper, protocol=protocol, **own)


def at(**values: tuple[Any, Any]) -> dict[str, Any]:
    """Tags `swept` and `published` of `key=(ours, published)`; `__` stands for the dot."""
    keys = {name.replace("__", "."): pair for name, pair in values.items()}
    return {
        "swept": {key: own for key, (own, _) in keys.items()},
        "published": {key: [printed] for key, (_, printed) in keys.items()},
    }


def _memoe(write: Writer) -> None:
    routing = {"routing_consistency": 0.75, "routing_purity": 0.8, "largest_load": 0.4}
    both = "memoe_v1_table1, memoe_v1_figure1, memoe_v2_table1"
    tags: dict[str, Any] = {"paper": both, "swept": {}}
    write.trial("memoe_batch", "memoe_v1", 0, GOOD, numbers=routing, method="memoe_v1", **tags)
    write.trial("memoe_batch", "memoe_v2", 0, FAIR, method="memoe_v2", **tags)
    write.trial("memoe_batch", "grace", 0, POOR, method="grace", **tags)
    both = "memoe_v1_table2, memoe_v2_table1"
    arms(write, both, {"memoe_v1": FAIR, "memoe_v2": POOR}, STREAM)
    for name, similar in (("10-10-10-10-10", 0.5), ("50-0-0-0-0", 0.9)):
        groups = {"group_sizes": [int(size) for size in name.split("-")]}
        protocol = BATCH | groups | {"num_edits": 50, "edit_batch_size": 50}
        found = routing | {"routing_consistency_similar": similar}
        own: dict[str, Any] = {"paper": "memoe_v1_table3", "swept": {"arm": name}}
        write.trial("groups", name, 0, GOOD, numbers=found, protocol=protocol, **own)
    sizes = "memoe_v1_table4, memoe_v2_table6"
    for method, scores in (("memoe_v1", GOOD), ("memoe_v2", FAIR)):
        tags = {"paper": sizes, "method": method}
        big = tags | at(protocol__num_edits=(30, 1000))
        write.trial("sizes", f"batch {method}", 0, scores, protocol=BATCH, **big)
        stream = tags | at(protocol__num_edits=(40, 1000))
        write.trial("sizes", f"stream {method}", 0, POOR, protocol=STREAM, **stream)
    arms(write, "memoe_v1_table5", {"token": FAIR, "knowledge_anchor": GOOD}, method="memoe_v1")
    cell = at(method__edit_layer=(8, 16), method__num_experts=(4, 4), method__top_k=(1, 1))
    write.trial("grid", "cell", 0, GOOD, paper="memoe_v1_table6", **cell)
    arms(write, "memoe_v2_table2", {"full": GOOD, "without_l_balance": FAIR})
    for backbone, scores in (("facts", GOOD), ("bloomz_1b1", FAIR)):
        own = {"paper": "memoe_v2_table4", "backbone": backbone, "method": "memoe_v2"}
        own |= {"backbone_fingerprint": backbone, "swept": {"arm": "batch"}}
        write.trial("models", f"batch {backbone}", 0, scores, **own)
        own |= {"protocol": SINGLE_EDITS, "swept": {"arm": "sequential"}}
        write.trial("models", f"sequential {backbone}", 0, POOR, **own)


def _figures(write: Writer) -> None:
    both = {"paper": "memoe_v1_figure4, memoe_v2_figure4"}
    for method, scores in (("memoe_v1", GOOD), ("memoe_v2", FAIR)):
        own: dict[str, Any] = both | {"method": method} | at(method__num_experts=(4, 4))
        write.trial("memoe_experts", f"{method} experts", 0, scores, **own)
        own |= at(method__edit_layer=(6, 12))
        write.trial("memoe_layers", f"{method} layer", 0, POOR, **own)
    own = both | {"method": "memoe_v1"} | at(method__top_k=(2, 2))
    write.trial("memoe_topk", "top_2", 0, FAIR, **own)
    asked = {"ability.boolq.before": 0.6, "ability.boolq.final": 0.5, "ability_change.boolq": -0.1}
    own = {"paper": "memoe_v1_figure3, memoe_v2_figure3", "swept": {"arm": "batch"}}
    for method in ("memoe_v1", "memoe_v2", "memit"):
        write.trial("ability", method, 0, GOOD, numbers=asked, method=method, **own)
    for method in ("memit", "grace"):
        tags: dict[str, Any] = {"paper": "memoe_v2_figure1", "method": method}
        own = tags | {"swept": {"arm": "head"}}
        write.trial("frequency", f"head {method}", 0, GOOD, **own)
        own = tags | {"swept": {"arm": "buckets"}}
        write.trial("frequency", f"buckets {method}", 0, FAIR, _by_frequency(), **own)


def _lemoe(write: Writer) -> None:
    arms(write, "lemoe_table2", {"memoe_v1": GOOD, "lemoe": FAIR})
    long = at(protocol__num_edits=(40, 2000))
    arms(write, "lemoe_table3", {"lemoe": FAIR}, STREAM, **long)
    curves = {"paper": "lemoe_figure2, lemoe_figure2_right, lemoe_figure5"}
    for seed in range(2):
        own: dict[str, Any] = curves | {"protocol": STREAM}
        write.trial("forgetting", "stream", seed, POOR, _stream(seed), **own)
        write.trial("forgetting", "one_batch", seed, GOOD, _one_batch(), **curves)
    for order, (reliability, within) in enumerate(((0.5, 0.30), (0.6, 0.31), (0.9, 0.33))):
        protocol = STREAM | {"order": "random", "order_seed": order}
        own = {"paper": "lemoe_figure3", "protocol": protocol}
        own |= at(protocol__order_seed=(order, order), protocol__num_edits=(40, 100))
        found = {"within_batch_similarity": within, "between_batch_similarity": 0.975 - within / 10}
        write.trial("order", f"order={order}", 0, (reliability, 0.5, 0.9), numbers=found, **own)


def _arm(write: Writer) -> None:
    found = {"stale_rate": 0.25, "edit_state_bytes": 2_500_000.0, "own_expert_rate": 0.5}
    ask: dict[str, Any] = at(protocol__num_questions=(15, 125)) | {"protocol": SERIAL}
    for table in ("arm_table1", "arm_figure4b"):
        for method, scores in (("arm", GOOD), ("wise_merge", FAIR), ("ft_l", POOR)):
            own: dict[str, Any] = ask | {"paper": table, "method": method}
            write.trial(table, method, 0, scores, numbers=found, **own)
    plain = at(protocol__num_edits=(40, 1000))
    arms(write, "arm_table2", {"arm": GOOD, "ft_l": POOR}, SINGLE_EDITS, **plain)
    tables = {
        "arm_table3": {"full": GOOD, "without_arm": FAIR},
        "arm_table4": {"fixed_cyclic": FAIR, "arm_with_memory_loss": GOOD},
        "arm_table13": {"emr": GOOD, "ties": POOR},
    }
    for table, named in tables.items():
        for name, scores in named.items():
            own = {"paper": table, "protocol": SERIAL, "swept": {"arm": name}, "method": "arm"}
            write.trial(table, name, 0, scores, numbers=found, **own)
    for protocol in (SERIAL, SINGLE_EDITS):
        kind = str(protocol["kind"])
        for table, name in (("arm_table5", "activation"), ("arm_table11", "yes")):
            own = {"paper": table, "protocol": protocol, "swept": {"arm": name}, "method": "arm"}
            scores = GOOD if kind == "serial" else FAIR
            write.trial(table, f"{name} {kind}", 0, scores, **own)
        for name, scores in (("none", GOOD), ("emr", FAIR)):
            own = {"paper": "arm_figure4c", "protocol": protocol, "swept": {"arm": name}}
            write.trial("compression", f"{name} {kind}", 0, scores, numbers=found, **own)
        own = {"paper": "arm_figure5", **(ask if kind == "serial" else plain), "protocol": protocol}
        for method, scores in (("arm", GOOD), ("wise_merge", FAIR), ("grace", POOR)):
            routed = {"own_expert_rate": 0.05 if method == "grace" and kind == "serial" else 0.75}
            name = f"{method} {kind}"
            write.trial("routes", name, 0, scores, numbers=routed, method=method, **own)
    own = {"paper": "arm_table5", "protocol": SERIAL, "swept": {"arm": "wise_merge"}}
    write.trial("arm_table5", "wise_merge serial", 0, POOR, method="wise_merge", **own)
    own = {"paper": "arm_table9", "protocol": SERIAL} | at(method__selection_threshold=(0.35, 0.35))
    write.trial("arm_table9", "0.35", 0, GOOD, **own)
    own = {"paper": "arm_figure4a", "protocol": SERIAL}
    own |= at(method__num_experts=(3, 3), method__mask_ratio=(0.3, 0.3))
    write.trial("arm_figure4a", "3 0.3", 0, GOOD, **own)


def _line(number: int, score: str, token: float, when: str, **more: Any) -> dict[str, Any]:
    line = {"record_id": str(number), "subject": f"s{number}", "score": score, "token": token}
    return line | {"exact": 0.0, "when": when} | more


def _by_frequency() -> list[dict[str, Any]]:
    """Twelve records, the more frequent half answered rightly."""
    return [
        _line(number, score, float(number < 6), "final", frequency=12.0 - number)
        for number in range(12)
        for score in ("reliability", "generality", "locality_far")
    ]


def _stream(seed: int) -> list[dict[str, Any]]:
    """Eight batches of one record: right at once, the first four forgotten but for half a word."""
    lines: list[dict[str, Any]] = []
    for batch in range(8):
        for score in ("reliability", "generality", "locality_far"):
            lines.append(_line(batch, score, 1.0, "immediate", batch=batch))
            kept = 1.0 if batch >= 4 else 0.5 * seed
            # Learned by expert 1 of 0 to 3 on most tokens; half of the edits go elsewhere later.
            experts: Sequence[int] = [1, 1, 0] if batch % 2 else [2, 2, 1]
            routed: dict[str, Any] = {"experts": experts, "trained_experts": [1, 1, 2]}
            more = routed if score == "reliability" else {}
            lines.append(_line(batch, score, kept, "final", batch=batch, **more))
    return lines


def _one_batch() -> list[dict[str, Any]]:
    return [
        _line(n, "reliability", 1.0, "final", batch=0, experts=[n % 2], trained_experts=[n % 2])
        for n in range(4)
    ]
