"""The settings by which an embedded backbone is made; torch is needed by its trainer alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from trainables.errors import ConfigError

VERSION = 1  # of the trainer: raised when the same recipe gives other weights

Row: TypeAlias = tuple[str, str, float]  # prompt, answer, sampling weight
Progress: TypeAlias = Callable[[int, int, float], None]  # step, steps in all, loss


@dataclass(frozen=True)
class Recipe:
    """All settings that decide the weights, apart from the rows trained on."""

    architecture: Literal["llama", "gpt2"] = "llama"
    num_layers: int = 16
    hidden_size: int = 128
    num_heads: int = 4
    ffn_size: int = 352
    vocabulary_size: int = 2048
    num_steps: int = 300
    batch_size: int = 128
    max_tokens: int = 56  # longer rows are cut, see `encode`
    matrix_lr: float = 0.02  # Muon
    momentum: float = 0.95
    weight_decay: float = 0.2  # of the matrices, times their learning rate
    vector_lr: float = 4e-3  # AdamW: embeddings, norms, biases
    warmup_share: float = 0.05
    decay_share: float = 0.6
    token_drop: float = 0.0  # share of prompt tokens shown as the unknown token while training
    seed: int = 0

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"num_heads is {self.num_heads}; it must divide {self.hidden_size}")
        if self.vocabulary_size < 260:
            raise ConfigError(
                f"vocabulary_size is {self.vocabulary_size}; 256 bytes and 4 marks need 260"
            )
        if not 0 <= self.token_drop < 1:
            raise ConfigError(f"token_drop is {self.token_drop}; it must lie in [0, 1)")
