"""Tasks that no edit is about, on SmolLM2, beside the harness's own model: CPU-s and answers.

    python tests/benchmarks/ability.py tasks=FOLDER [only=choices|texts|answers]

`choices`  CPU-seconds of log-likelihoods of an edited model, beside those of the harness's HFLM
`texts`    CPU-seconds of texts that an edited model is guessed to write, beside unguessed ones
`answers`  what the unedited model answers to each question, here and by HFLM

`FOLDER` holds the tasks' files (README, "What edits cost the rest"); needs the extra `ability`. One
thread. Nothing here passes or fails a test.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import lm_eval.evaluator
import torch
from lm_eval.models.huggingface import HFLM

from trainables.ability.edited_model import EditedModel
from trainables.ability.harness import HarnessTask, tasks_of
from trainables.backbones.conversion.prepared import packaged
from trainables.backbones.loading import load_backbone
from trainables.interfaces import Backbone, Edit
from trainables.notebook import Editor
from trainables.spec import EvaluateSpec

NUM_CHOICES, NUM_TEXTS = 50, 5
# Questions of each task that both models answer.
ANSWERS = {"boolq": 50, "rte": 50, "sst2": 50, "nq_open": 50, "mutual": 12, "gsm8k": 4}
PARTS = ("choices", "texts", "answers")
EDIT = Edit("The capital of France is", "Rome", subject="France")


def main(argv: list[str]) -> int:
    """Print the comparisons."""
    told = dict(word.split("=", 1) for word in argv if "=" in word)
    only = told.pop("only", "")
    if set(told) != {"tasks"} or only not in ("", *PARTS):
        usage = f"tasks=FOLDER [only={'|'.join(PARTS)}]"
        print(f"usage: python tests/benchmarks/ability.py {usage}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    backbone = load_backbone(packaged("smollm2_135m"))
    editor = Editor("memoe_v1", backbone)
    if only in ("", "choices"):
        choices(backbone, editor, EvaluateSpec(("boolq",), NUM_CHOICES, told["tasks"]))
    if only in ("", "texts"):
        texts(backbone, editor, EvaluateSpec(("gsm8k",), NUM_TEXTS, told["tasks"]))
    if only in ("", "answers"):
        for name, count in ANSWERS.items():
            answers(backbone, editor, name, EvaluateSpec((name,), count, told["tasks"]))
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


def answers(backbone: Backbone, editor: Editor, name: str, wanted: EvaluateSpec) -> None:
    """Questions of a task of which both unedited models say, and are counted, alike."""
    ours, theirs = (
        _samples(model, name, wanted)
        for model in (
            EditedModel(editor.method.logits, backbone),
            HFLM(pretrained=backbone.model, tokenizer=backbone.tokenizer, batch_size=1),
        )
    )
    apart = [_apart(here, there) for here, there in zip(ours, theirs, strict=True)]
    print(
        f"{name}: {sum(each is not None for each in apart)} of {len(apart)} questions answered "
        f"alike; log-likelihoods at most {max((each or 0.0) for each in apart):.1e} apart",
        flush=True,
    )


def _samples(model: Any, name: str, wanted: EvaluateSpec) -> list[dict[str, Any]]:
    tasks: Any = tasks_of(name, wanted)
    tasks[name].set_fewshot_seed(0)
    asked: Any = {"tasks": tasks}
    found = lm_eval.evaluator.evaluate(
        model, asked, limit=wanted.questions, bootstrap_iters=0, log_samples=True
    )
    return [each for each in found["samples"][name] if each["filter"] != "strict-match"]


def _apart(ours: dict[str, Any], theirs: dict[str, Any]) -> float | None:
    """The largest difference of log-likelihoods, 0 of texts; None of other answers."""
    apart = 0.0
    for (here,), (there,) in zip(ours["resps"], theirs["resps"], strict=True):
        if isinstance(here, str):
            if here != there:
                return None
            continue
        if here[1] != there[1]:
            return None
        apart = max(apart, abs(here[0] - there[0]))
    pairs = list(zip(ours["resps"], theirs["resps"], strict=True))
    if not isinstance(pairs[0][0][0], str):
        best = [max(range(len(pairs)), key=lambda at: pairs[at][side][0][0]) for side in (0, 1)]
        if best[0] != best[1]:
            return None
    return apart


def _seconds(do: Callable[[], object]) -> float:
    begin = time.process_time()
    do()
    return time.process_time() - begin


def _shown(seconds: list[float]) -> str:
    return " and ".join(f"{each:.1f}" for each in seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
