"""CPU-seconds of tasks that no edit is about, on SmolLM2, beside the harness's own model.

    python tests/benchmarks/ability.py tasks=FOLDER

`FOLDER` holds boolq*.jsonl, gsm8k_test* and gsm8k_train* (README, "General ability"); needs the
extra `ability`. One thread. Nothing here passes or fails a test.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import lm_eval.evaluator
import torch
from lm_eval.models.huggingface import HFLM

from trainables.ability.harness import HarnessTask, tasks_of
from trainables.backbones.conversion.prepared import packaged
from trainables.backbones.loading import load_backbone
from trainables.interfaces import Backbone, Edit
from trainables.notebook import Editor
from trainables.spec import EvaluateSpec

NUM_CHOICES, NUM_TEXTS = 50, 5
EDIT = Edit("The capital of France is", "Rome", subject="France")


def main(argv: list[str]) -> int:
    """Print both comparisons."""
    told = dict(word.split("=", 1) for word in argv if "=" in word)
    if set(told) != {"tasks"}:
        print("usage: python tests/benchmarks/ability.py tasks=FOLDER", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    backbone = load_backbone(packaged("smollm2_135m"))
    editor = Editor("memoe_v1", backbone)
    choices(backbone, editor, EvaluateSpec(("boolq",), NUM_CHOICES, told["tasks"]))
    texts(backbone, editor, EvaluateSpec(("gsm8k",), NUM_TEXTS, told["tasks"]))
    return 0


def choices(backbone: Backbone, editor: Editor, wanted: EvaluateSpec) -> None:
    """Log-likelihoods of an edited model, and of the unedited one as the harness asks it."""
    task = HarnessTask("boolq", backbone, wanted)
    editor.edit([EDIT])
    edited = [_seconds(lambda: task.ask(editor.method.logits)) for _ in range(2)]
    editor.remove()

    def theirs() -> None:
        model = HFLM(pretrained=backbone.model, tokenizer=backbone.tokenizer, batch_size=8)
        asked: Any = {"tasks": tasks_of("boolq", wanted)}
        lm_eval.evaluator.evaluate(model, asked, limit=NUM_CHOICES, bootstrap_iters=0)

    harness = [_seconds(theirs) for _ in range(2)]
    print(
        f"{NUM_CHOICES} questions of BoolQ, CPU-s: HFLM, unedited, {_shown(harness)}; edited by "
        f"memoe_v1, asked for the first time and once more, {_shown(edited)}"
    )


def texts(backbone: Backbone, editor: Editor, wanted: EvaluateSpec) -> None:
    """Texts of an edited model that says the same as the unedited one, guessed or not."""
    task = HarnessTask("gsm8k", backbone, wanted)
    logits = editor.method.logits  # nothing is edited
    first = _seconds(lambda: task.ask(logits))
    guessed = _seconds(lambda: task.ask(logits))
    again = _seconds(lambda: task.ask(logits))
    task.texts.clear()
    alone = _seconds(lambda: task.ask(logits))
    print(
        f"{NUM_TEXTS} questions of GSM8K with four examples, CPU-s: unedited {first:.1f}; as "
        f"guessed, for the first time {guessed:.1f}, once more {again:.1f}; without a guess "
        f"{alone:.1f}"
    )


def _seconds(do: Callable[[], object]) -> float:
    begin = time.process_time()
    do()
    return time.process_time() - begin


def _shown(seconds: list[float]) -> str:
    return " and ".join(f"{each:.1f}" for each in seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
