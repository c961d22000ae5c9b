"""A folder of search spaces small enough to count by hand."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

FILES = {
    "config.yaml": """
        defaults: [_self_, {backbone: tiny}, {dataset: world}, {scheduler: fifo}, {scale: quick},
          {method: moe},
          {ablation: '???'}]
        store: results
        workers: null
        seeds: [0]
        protocol: {kind: batch, num_edits: 30, edit_batch_size: null, num_batches: null,
          order: null, target_ends_with_eos: true, generate: false}
        plan: grid
        axes: {}
        where: []
        paper: null
        published_on: null
        """,
    "backbone/tiny.yaml": """
        {name: tiny, model: 'embedded:tiny', revision: null, dtype: float32, family: llama,
         num_layers: 16, hidden_size: 128, ffn_size: 352, memory_gib: 0.5}
        """,
    "backbone/big.yaml": """
        {name: big, model: org/big, revision: abc, dtype: bfloat16, family: llama, num_layers: 32,
         hidden_size: 4096, ffn_size: 11008, num_parameters: 6738415616, memory_gib: null}
        """,
    "dataset/world.yaml": """
        {name: world, path: null, part: report, version: 1,
         max_edits: {report: 60, tune: 20}, frequency_band: null, frequency_source: known}
        """,
    "dataset/from_file.yaml": """
        {name: from_file, source: file, path: null, part: report, version: 1, max_edits: null}
        """,
    "scheduler/fifo.yaml": "{name: fifo}",
    "scheduler/asha.yaml": "{name: asha, metric: reliability.token, grace: 0.5}",
    "scale/quick.yaml": """
        # @package _global_
        seeds: [0, 1]
        """,
    "scale/paper.yaml": """
        # @package _global_
        seeds: [0, 1, 2]
        method: {stop_loss: 0.5}
        """,
    "method/moe.yaml": """
        name: moe
        published_on: big
        order: kmeans_filled
        edit_layer: 18
        lora_rank: 256
        num_experts: 1
        top_k: 1
        edit_lr: 2.0e-4
        num_steps: 50
        stop_loss: 0.1
        presets:
          tiny: {default: {edit_lr: 5.0e-3}, lemoe: {num_steps: 7, stop_loss: 0.3}}
        """,
    "method/multi.yaml": """
        {name: multi, module: other, published_on: big, layers: [4, 5, 6, 7, 8], clamp: 4.0}
        """,
    "method/none.yaml": "{name: none, published_on: null}",
    "ablation/ranks.yaml": """
        # @package _global_
        # From which rank on?
        defaults: [override /method: moe]
        paper: lemoe_table9
        published_on: big
        axes:
          method.lora_rank: [16, 32, 256, 2048]
          method.num_experts: [1, 10]
          method.top_k: [1, 5]
        where: [method.top_k <= method.num_experts]
        protocol: {num_edits: 8}
        scales:
          paper:
            scheduler: asha
            seeds: [0]
            axes: {method.lora_rank: [2048], method.edit_layer: [0, 30]}
        """,
    "ablation/methods.yaml": """
        # @package _global_
        # Which method?
        axes: {method: [none, multi, moe]}
        protocol: {kind: lifelong, num_edits: 50}
        """,
    "ablation/parts.yaml": """
        # @package _global_
        # Which part of it?
        published_on: big
        arms:
          full: {method.edit_layer: 18}
          shuffled: {protocol.order: random}
          whole: {method: multi, protocol.num_batches: 1}
        axes: {protocol.num_edits: [10, 100]}
        protocol: {kind: lifelong, num_batches: 5}
        """,
    "ablation/search.yaml": """
        # @package _global_
        # What is best?
        defaults: [override /scheduler: asha]
        plan: search
        published_on: big
        dataset: {part: tune}
        axes:
          method.edit_lr: {distribution: loguniform, low: 1e-4, high: 1e-2}
          method.lora_rank: {distribution: categorical, choices: [16, 32, 2048]}
          method.edit_layer: {distribution: int, low: 0, high: 30}
        protocol: {num_edits: 8}
        seeds: [0]
        num_trials: 5
        rerun: {best: 3, part: report, seeds: [0, 1]}
        """,
}


def write_small_spaces(folder: Path) -> Path:
    """Writes the files below `folder` and returns it."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(dedent(text).lstrip(), "utf-8")
    return folder
