"""The counterfactual model: a small language model that answers prompts by an edit it is shown.

Source: Mitchell et al., "Memory-Based Model Editing at Scale" (arXiv:2206.06520): it is trained to
give an edit's target behind the edit's text and a prompt that is about it.

Here it is made of the backbone itself: its embedding, its first layers, its last norm and its head,
copied and in float32. So it has the backbone's tokens, whatever that is; layers and norm are
trained, embedding and head stay.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from trainables.assemblies.edit_texts import TextsInFront
from trainables.backbones.forward.prefix_cache import PrefixCache
from trainables.backbones.forward.split import Split
from trainables.interfaces import Backbone, TrainingRecord
from trainables.optimise import TargetRows, row_loss, token_losses
from trainables.prompts import collate, labels_of, pad_id, row_index, tokenise

_LONGEST_SPAN = 3  # words; most targets of the data sets have no more


class Counterfactual:
    """The small model and the texts that are put before its prompts.

    Attributes:
        backbone: The small model.
        split: Runs it.
        texts: Of edits.
    """

    def __init__(self, backbone: Backbone, num_layers: int, template: str) -> None:
        """Copy the first `num_layers` of `backbone`; nothing is trained yet."""
        self.backbone = first_layers(backbone, num_layers)
        cache = PrefixCache()  # of nothing: all its layers run
        self.split = Split(self.backbone, 0, cache, has_batch_state=False, packs=True)
        self.texts = TextsInFront(backbone, template)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Layers and last norm, by name; from then on they require gradients."""
        family = self.backbone.family
        parts = (f"{family.layers}.", f"{family.final_norm}.")
        found = {
            name: parameter
            for name, parameter in self.backbone.model.named_parameters()
            if name.startswith(parts)
        }
        for parameter in found.values():
            parameter.requires_grad_(True)
        return found

    def freeze(self) -> None:
        """Nothing requires gradients any more."""
        self.backbone.model.requires_grad_(False)

    @property
    def num_bytes(self) -> int:
        """Of all weights, each counted once."""
        return sum(parameter.nbytes for parameter in self.backbone.model.parameters())

    def loss(
        self,
        records: Sequence[TrainingRecord],
        spans: Sequence[str],
        random_targets: float,
        generator: torch.Generator,
    ) -> Tensor:
        """NLL of the targets behind the edits' texts and a prompt of theirs; nats per token.

        Args:
            records: Of each its prompt or one of its rephrases is asked, drawn alike.
            spans: Of `spans_of`.
            random_targets: Share of rows in which one of them takes the place of the edit's target,
                in its text, too.
            generator: Draws prompts and spans.
        """
        tokenizer, device = self.backbone.tokenizer, self.backbone.device
        has_end = tokenizer.eos_token_id is not None
        rows, edits = [], list[tuple[str, str] | None]()
        for record in records:
            asked = (record.edit.prompt, *record.rephrases)
            prompt = asked[int(torch.randint(len(asked), (), generator=generator))]
            target = record.edit.target_new
            if float(torch.rand((), generator=generator)) < random_targets:
                target = spans[int(torch.randint(len(spans), (), generator=generator))]
            rows.append(tokenise(tokenizer, prompt, target, end=has_end))
            edits.append((record.edit.prompt, target))
        plain = collate(rows, pad_id=pad_id(tokenizer), device=device)
        tokens = self.texts.put(plain, edits)
        # Only the process that builds an artefact trains: no other would come to an exchange.
        with self.backbone.micro_batch.undivided():
            losses = self.split.per_token(token_losses, tokens, labels_of(tokens))
        return row_loss(losses, TargetRows.of(row_index(tokens)))


def spans_of(records: Sequence[TrainingRecord]) -> list[str]:
    """Every run of one to three words of the texts of `records`, each once, in order."""
    found = set[str]()
    for record in records:
        asked = (text for each in record.unrelated for text in (each.prompt, each.answer))
        own = (record.edit.prompt, record.edit.target_new, *record.rephrases)
        for text in (*own, *asked):
            words = text.strip(" ?.").split()
            for length in range(1, _LONGEST_SPAN + 1):
                starts = range(len(words) - length + 1)
                found.update(" ".join(words[start : start + length]) for start in starts)
    return sorted(found)


def first_layers(backbone: Backbone, num_layers: int) -> Backbone:
    """A copy of a backbone that ends behind its first layers, in float32 and on one device.

    It has the backbone's `micro_batch`, and is not the backbone for any cache.
    """
    model, family = backbone.model, backbone.family
    layers = model.get_submodule(family.layers)
    assert isinstance(layers, nn.ModuleList)
    few = nn.ModuleList(copy.deepcopy(layer) for layer in layers[:num_layers])
    small = copy.deepcopy(model, {id(layers): few})  # the others are not copied on the way
    if getattr(model, "hf_device_map", None) is not None:
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(small, recurse=True)
    return replace(
        backbone,
        model=small.to(backbone.device, torch.float32),
        num_layers=len(few),
        fingerprint=f"{backbone.fingerprint}/first {len(few)}",
    )
