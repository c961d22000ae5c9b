"""Trains the embedded backbone: a small causal model from scratch, on rows of prompt and answer.

Everything is float32 and the number of steps is fixed, so that what comes out does not depend on
how fast the host is. (Another number of threads or another CPU adds numbers up in another order, so
weights agree bit for bit on one machine only; whoever needs identity takes the weights' hash.)
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.backbones.embedded.newton_schulz import Muon
from trainables.backbones.embedded.recipe import Progress, Recipe, Row
from trainables.backbones.silence import without_bars
from trainables.errors import DataError

BEGIN, END, PAD, UNKNOWN = "<s>", "</s>", "<pad>", "<unk>"

_POOL_BATCHES = 8
_IGNORED = -100


@dataclass(frozen=True)
class EncodedRow:
    """Token ids of begin token, prompt, answer and end token."""

    ids: tuple[int, ...]
    prompt_length: int  # begin token included


def learning_rate_share(recipe: Recipe, step: int) -> float:
    """Share of the peak learning rate at `step` of 0..num_steps-1.

    Rises linearly over the first `warmup_share` of all steps, holds, and falls linearly over the
    last `decay_share`; never 0, so that no step is idle.
    """
    rise = (step + 1) / max(1.0, recipe.warmup_share * recipe.num_steps)
    fall = (recipe.num_steps - step) / max(1.0, recipe.decay_share * recipe.num_steps)
    return min(1.0, rise, fall)


def train_tokenizer(recipe: Recipe, rows: Sequence[Row]) -> Any:
    """A byte-level BPE tokenizer of the rows' text that puts the begin token in front.

    A word has the same token at the start of a text as inside it (`add_prefix_space`), and no token
    crosses a space, so the tokens of a prompt and those of " answer" join into those of the whole.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary_size,
        special_tokens=[PAD, BEGIN, END, UNKNOWN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator((f"{prompt} {answer}" for prompt, answer, _ in rows), trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, core.token_to_id(BEGIN))]
    )
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=4 * recipe.max_tokens,
    )


def encode(
    tokenizer: Any, pairs: Sequence[tuple[str, str]], max_tokens: int
) -> tuple[list[EncodedRow], int]:
    """Rows of prompt and answer as token ids, and how many were cut to `max_tokens`.

    A cut takes the front of the prompt, behind the begin token, but leaves it half of `max_tokens`;
    if that is not enough, the end of the answer goes, and with it the end token.
    """
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    wholes = tokenizer([f"{prompt} {answer}" for prompt, answer in pairs])["input_ids"]
    encoded: list[EncodedRow] = []
    num_cut = 0
    for head, whole in zip(prompts, wholes, strict=True):
        ids, length = (*whole, tokenizer.eos_token_id), len(head)
        if len(ids) > max_tokens:
            front = min(len(ids) - max_tokens, max(0, length - max_tokens // 2))
            ids, length = (ids[0], *ids[1 + front :])[:max_tokens], length - front
            num_cut += 1
        encoded.append(EncodedRow(ids, length))
    return encoded, num_cut


def build_model(recipe: Recipe, tokenizer: Any) -> nn.Module:
    """A freshly initialised model of the recipe: normal weights of deviation .02, norms at 1."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    positions = 4 * recipe.max_tokens
    config: PretrainedConfig
    auto: Any = AutoModelForCausalLM
    if recipe.architecture == "llama":
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.ffn_size,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=recipe.num_heads,
            max_position_embeddings=positions,
            tie_word_embeddings=True,
            **ids,
        )
    else:
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=recipe.hidden_size,
            n_inner=recipe.ffn_size,
            n_layer=recipe.num_layers,
            n_head=recipe.num_heads,
            n_positions=positions,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            activation_function="gelu_pytorch_tanh",  # the default's formula as one kernel
            **ids,
        )
    with torch.random.fork_rng(devices=[]):  # the library draws weights, which are replaced below
        model: nn.Module = auto.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.02, generator=generator)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def train(recipe: Recipe, rows: Sequence[Row], out: Path, progress: Progress | None = None) -> Path:
    """Trains a model on `rows` and puts it, with its tokenizer, into the folder `out`.

    Only answers and the end token behind them carry loss. The folder appears whole or not at all;
    it also gets `recipe.json` and `report.json` (what came of the training, as numbers).

    Args:
        recipe: Model, optimiser and number of steps.
        rows: Prompt, answer and sampling weight; a row is drawn in proportion to its weight.
        out: Folder to make; one that is there is replaced.
        progress: Called after every step.

    Returns:
        `out`.

    Raises:
        DataError: If there are no rows.
    """
    if not rows:
        raise DataError("there are no rows to train a backbone on")
    tokenizer = train_tokenizer(recipe, rows)
    pairs = [(prompt, answer) for prompt, answer, _ in rows]
    encoded, num_cut = encode(tokenizer, pairs, recipe.max_tokens)
    model = build_model(recipe, tokenizer)
    loss = fit(model, recipe, encoded, [weight for *_, weight in rows], tokenizer, progress)
    lengths = [len(row.ids) for row in encoded]
    answers = [len(row.ids) - row.prompt_length - 1 for row in encoded]
    report = {
        "num_rows": len(rows),
        "num_rows_cut": num_cut,
        "tokens_per_row": sum(lengths) / len(lengths),
        "tokens_per_answer": sum(answers) / len(answers),
        "final_loss": loss,  # mean of the last tenth of all steps
    }
    _save(model, tokenizer, out, {"recipe.json": asdict(recipe), "report.json": report})
    return out


def fit(
    model: nn.Module,
    recipe: Recipe,
    rows: Sequence[EncodedRow],
    weights: Sequence[float],
    tokenizer: Any,
    progress: Progress | None = None,
) -> float:
    """Trains `model` in place; the mean loss of the last tenth of all steps is returned."""
    muon, adam = _optimisers(model, recipe)
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    losses: list[float] = []
    model.train()
    batches = _batches(rows, weights, recipe, generator)
    for step, batch in enumerate(batches):
        ids, labels = _padded([rows[index] for index in batch], tokenizer.pad_token_id)
        shown = ids
        if recipe.token_drop > 0:
            is_prompt = (labels == _IGNORED) & (ids != tokenizer.pad_token_id)
            is_prompt[:, 0] = False
            chance = torch.rand(ids.shape, generator=generator)
            dropped = is_prompt & (chance < recipe.token_drop)
            shown = ids.masked_fill(dropped, tokenizer.unk_token_id)
        loss = _answer_loss(model, shown, labels)
        torch.autograd.backward(loss)
        share = learning_rate_share(recipe, step)
        muon.step(recipe.matrix_lr * share)
        for group in adam.param_groups:
            group["lr"] = recipe.vector_lr * share
        adam.step()
        adam.zero_grad()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, recipe.num_steps, losses[-1])
    model.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def recall(folder: Path, pairs: Sequence[tuple[str, str]], max_tokens: int) -> list[bool]:
    """For each prompt and answer whether the checkpoint in `folder` gives it to the end token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    with without_bars():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows, _ = encode(tokenizer, pairs, max_tokens)
    return exact_matches(model.eval(), rows, tokenizer.pad_token_id)


@torch.no_grad()
def exact_matches(
    model: nn.Module, rows: Sequence[EncodedRow], pad_id: int, batch_size: int = 256
) -> list[bool]:
    """For each row whether every answer token and the end token come first, teacher forced."""
    correct = [False] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids, labels = _padded([rows[index] for index in chosen], pad_id)
        at = labels != _IGNORED
        guesses = _answer_logits(model, ids, at).argmax(-1)
        wrong = torch.zeros(len(chosen), dtype=torch.bool)
        wrong[at.nonzero()[:, 0][guesses != labels[at]]] = True
        for index, is_wrong in zip(chosen, wrong.tolist(), strict=True):
            correct[index] = not is_wrong
    return correct


def _answer_logits(model: nn.Module, ids: Tensor, at: Tensor) -> Tensor:
    """Next-token logits (M, V) at the marked positions only.

    Rows are padded on the right, and a causal model never looks there: a mask of ones says so and
    keeps the fast kernel, which a mask with holes would lose. Nothing follows the last position; it
    is not marked, and not computed.
    """
    decoder = getattr(model, model.base_model_prefix)  # type: ignore[call-overload]
    ids, at = ids[:, :-1], at[:, :-1]
    ones = torch.ones_like(ids)
    hidden = decoder(input_ids=ids, attention_mask=ones, use_cache=False).last_hidden_state
    return torch.as_tensor(model.get_output_embeddings()(hidden[at]))  # type: ignore[operator]


def _answer_loss(model: nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    at = labels != _IGNORED
    return nn.functional.cross_entropy(_answer_logits(model, ids, at), labels[at])


def _padded(rows: Sequence[EncodedRow], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids (B, T), and at each position the answer token that follows, elsewhere -100."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    labels = torch.full((len(rows), width), _IGNORED, dtype=torch.long)
    for number, row in enumerate(rows):
        tokens = torch.tensor(row.ids)
        ids[number, : len(tokens)] = tokens
        labels[number, row.prompt_length - 1 : len(tokens) - 1] = tokens[row.prompt_length :]
    return ids, labels


def _batches(
    rows: Sequence[EncodedRow],
    weights: Sequence[float],
    recipe: Recipe,
    generator: torch.Generator,
) -> Iterator[list[int]]:
    """Row numbers of every batch, each of rows of similar length.

    How often a row is drawn is its share of all draws, rounded up or down by one random offset,
    which leaves no fact unread by bad luck. Rows are sorted by length within a few batches.
    """
    num_draws = recipe.num_steps * recipe.batch_size
    ends = torch.tensor(weights, dtype=torch.float64).cumsum(0)
    offset = torch.rand((), dtype=torch.float64, generator=generator)
    marks = (torch.arange(num_draws, dtype=torch.float64) + offset) * (ends[-1] / num_draws)
    drawn = torch.searchsorted(ends, marks, right=True).clamp_max(len(rows) - 1)
    drawn = drawn[torch.randperm(num_draws, generator=generator)]
    pool_size = _POOL_BATCHES * recipe.batch_size
    for pool in torch.split(drawn, pool_size):
        by_length = sorted(pool.tolist(), key=lambda index: len(rows[index].ids))
        starts = range(0, len(by_length), recipe.batch_size)
        for number in torch.randperm(len(starts), generator=generator).tolist():
            yield by_length[starts[number] : starts[number] + recipe.batch_size]


def _optimisers(model: nn.Module, recipe: Recipe) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the matrices of the layers, AdamW without decay for everything else."""
    from transformers.pytorch_utils import Conv1D

    matrices: list[tuple[Tensor, bool]] = []
    for module in model.get_submodule(model.base_model_prefix).modules():  # type: ignore[arg-type]
        if isinstance(module, nn.Linear | Conv1D):
            matrices.append((module.weight, isinstance(module, Conv1D)))
    taken = {id(weight) for weight, _ in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in taken]
    adam = torch.optim.AdamW(others, lr=recipe.vector_lr, betas=(0.9, 0.95), weight_decay=0.0)
    return Muon(matrices, recipe.momentum, recipe.weight_decay), adam


def _save(model: Any, tokenizer: Any, out: Path, texts: dict[str, Any]) -> None:
    """Writes beside `out`, then renames, so that nobody reads half a checkpoint."""
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    if aside.exists():  # left behind by a killed process that had the same number
        shutil.rmtree(aside)
    aside.mkdir(parents=True)
    with without_bars():
        model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    for name, content in texts.items():
        (aside / name).write_text(json.dumps(content, indent=1) + "\n")
    if out.exists():
        shutil.rmtree(out)
    aside.rename(out)
