"""A LEMoE trial the plain way, against which prefix states and batched evaluation are held.

Parameters are frozen and every edit batch and step is the same, but each step runs the whole
model, prompts are evaluated one by one, and every trial asks the pristine model itself. The model
is called through its own `forward`; only the expert bank, its adaptor and the frozen anchors are
those of the method, so that the ratio measures neither the draw of a weight nor how experts are
summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainables.draws.ordering import plan_batches
from trainables.interfaces import Backbone, EditRecord
from trainables.moe.adaptor import Adaptor
from trainables.moe.experts import LoraBank
from trainables.moe.routers import FrozenAnchors
from trainables.seeding import trial_generators


@dataclass(frozen=True)
class _Question:
    """A prompt, the tokens that are asked of it, and the score that it counts for."""

    record: int
    score: str
    ids: Tensor  # (1, T), prompt and answer
    prompt_length: int

    @property
    def answer(self) -> Tensor:
        """The answer's tokens, (M,)."""
        return self.ids[0, self.prompt_length :]


class NaiveTrial:
    """One batch of edits by LoRA experts in the FFN of one layer."""

    def __init__(
        self, backbone: Backbone, settings: Mapping[str, Any], centre_prompts: Sequence[str]
    ) -> None:
        """Nothing is computed yet.

        Args:
            backbone: Left as it was when `run` returns.
            settings: Fields of the method's Config.
            centre_prompts: Their mean embedding is the centre of the anchors.
        """
        self._backbone = backbone
        self._model = backbone.model
        self._settings = settings
        self._centre_prompts = centre_prompts
        self.num_steps = 0

    def run(self, records: Sequence[EditRecord], seed: int) -> dict[str, float]:
        """`<score>.token` after the edits: mean over records of the mean over their prompts."""
        questions = [q for i, record in enumerate(records) for q in self._questions(i, record)]
        pristine = [self._answer(question) for question in questions]
        layer = self._model.get_submodule(self._backbone.layer_path(self._settings["edit_layer"]))
        ffn_name = self._backbone.family.ffn
        frozen = layer.get_submodule(ffn_name)
        router = self._router()
        adaptor = Adaptor(frozen, self._settings["bypass_weight"])
        setattr(layer, ffn_name, adaptor)
        try:
            self._train(adaptor, router, records, seed)
            edited = [self._routed_answer(adaptor, router, question) for question in questions]
        finally:
            setattr(layer, ffn_name, frozen)
        by_record: dict[tuple[str, int], list[float]] = {}
        for question, before, after in zip(questions, pristine, edited, strict=True):
            wanted = before if question.score.startswith("locality") else question.answer
            right = (after == wanted).double().mean().item()
            by_record.setdefault((question.score, question.record), []).append(right)
        by_score: dict[str, list[float]] = {}
        for (score, _), values in by_record.items():
            by_score.setdefault(f"{score}.token", []).append(sum(values) / len(values))
        return {score: sum(values) / len(values) for score, values in by_score.items()}

    def _questions(self, index: int, record: EditRecord) -> Iterator[_Question]:
        def ask(score: str, prompt: str, answer: str) -> _Question:
            ids, length = self._joined(prompt, answer)
            return _Question(index, score, torch.tensor([ids]), length)

        yield ask("reliability", record.prompt, record.target_new)
        for rephrase in record.rephrases:
            yield ask("generality", rephrase, record.target_new)
        for other in (*record.locality, *record.portability):
            yield ask(other.kind, other.prompt, other.answer)

    def _joined(self, prompt: str, answer: str) -> tuple[list[int], int]:
        """Tokens of the joint text, and how many are the prompt's (no token straddles them)."""
        tokenizer = self._backbone.tokenizer
        alone = list(tokenizer(prompt)["input_ids"])
        joint = list(tokenizer(f"{prompt} {answer.strip()}")["input_ids"])
        assert joint[: len(alone)] == alone
        return joint, len(alone)

    @torch.no_grad()
    def _answer(self, question: _Question) -> Tensor:
        logits: Tensor = self._model(input_ids=question.ids, use_cache=False).logits
        return logits[0, question.prompt_length - 1 : -1].argmax(-1)

    def _routed_answer(
        self, adaptor: Adaptor, router: FrozenAnchors, question: _Question
    ) -> Tensor:
        embedding = self._embedding(question.ids[0, : question.prompt_length])
        with adaptor.routed(router.gates(embedding[None])):
            return self._answer(question)

    def _embedding(self, prompt_ids: Tensor) -> Tensor:
        """Mean input embedding of a prompt, (D,)."""
        return self._backbone.embedding(prompt_ids).detach().mean(0)

    def _prompt_embeddings(self, prompts: Sequence[str]) -> Tensor:
        """(B, D)."""
        ids = [torch.tensor(self._backbone.tokenizer(text)["input_ids"]) for text in prompts]
        return torch.stack([self._embedding(row) for row in ids])

    def _router(self) -> FrozenAnchors:
        centre = self._prompt_embeddings(self._centre_prompts).mean(0)
        settings = self._settings
        return FrozenAnchors(centre, settings["top_k"], settings["router_temperature"])

    def _train(
        self, adaptor: Adaptor, router: FrozenAnchors, records: Sequence[EditRecord], seed: int
    ) -> None:
        """AdamW on new experts, whole rows through the whole model in every step."""
        settings, generator = self._settings, trial_generators(seed).init
        embeddings = self._prompt_embeddings([record.prompt for record in records])
        means = _group_means(embeddings, settings["num_experts"], generator)
        router.add(means, generator)
        bank = LoraBank(
            len(means),
            self._backbone.hidden_size,
            settings["lora_rank"],
            lora_alpha=settings["lora_alpha"],
            generator=generator,
            like=embeddings,
        )
        adaptor.add_bank(bank)
        loss_of = self._loss(records)
        gates = router.gates(embeddings)
        optimiser = torch.optim.AdamW(
            bank.parameters(), lr=settings["edit_lr"], weight_decay=settings["weight_decay"]
        )
        with adaptor.routed(gates):
            for step in range(settings["num_steps"]):
                loss = loss_of()
                if loss.item() < settings["stop_loss"]:
                    break
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                self.num_steps = step + 1

    def _loss(self, records: Sequence[EditRecord]) -> Callable[[], Tensor]:
        """Mean over edits of the mean loss of a target's tokens, its end token included."""
        end = int(self._backbone.tokenizer.eos_token_id)
        rows = [self._joined(record.prompt, record.target_new) for record in records]
        tokens = [[*ids, end] for ids, _ in rows]
        width = max(map(len, tokens))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in tokens])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in tokens])
        labels = ids.clone()
        for row, (joined, length) in enumerate(rows):
            labels[row, :length] = -100
            labels[row, len(joined) + 1 :] = -100

        def loss() -> Tensor:
            logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            wanted = labels[:, 1:]
            losses = cross_entropy(logits[:, :-1].transpose(1, 2), wanted, reduction="none")
            counts = (wanted != -100).sum(1)
            return (losses.sum(1) / counts).mean()

        return loss


def _group_means(embeddings: Tensor, num_experts: int, generator: torch.Generator) -> Tensor:
    """Mean embedding of each expert's edits, (E, D)."""
    if num_experts == 1:
        return embeddings.mean(0, keepdim=True)
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    groups = plan_batches(
        embeddings.double().numpy(), order="kmeans_unequal", seed=seed, num_batches=num_experts
    )
    return torch.stack([embeddings[torch.as_tensor(group)].mean(0) for group in groups])
