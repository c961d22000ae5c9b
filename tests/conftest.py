"""Tiny random backbones of each family, and the paths that tests share."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from trainables.backbones.families import FOLDER, known_families
from trainables.backbones.loading import load_backbone
from trainables.errors import ConfigError
from trainables.interfaces import Backbone
from trainables.moe.entities import Chunker, nltk_chunker
from trainables.parallel.micro_batch import MicroBatch

# The same examples on every machine; `pytest --hypothesis-profile=default` draws new ones.
settings.load_profile("ci")

VOCABULARY = 320
FAMILIES = known_families()
# Where one of these takes part, `make test` runs a method of the contract on a family: a method
# that writes a weight, one that trains experts beside it, one that solves for an update.
QUICK_FAMILIES = ("gpt2", "llama")
QUICK_METHODS = ("ft_m", "lemoe_lora", "memit")
# Methods that differ from another one in settings alone: `make test` runs them on one family.
VARIANTS = ("conventional_moe", "ft_l", "lemoe_lora", "locft_bf", "r_rome", "wise_merge")
TEXTS = (
    "The capital of Fooland is Bar City.",
    "Where was Ada Quell born? Vesper",
    "Ada Quell works for Lumen Works in Oslo Bay.",
    "Who wrote The Long Tide? Ivo Marsh",
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a begin token in front, as LLaMA's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def tiny_config(
    family: str, num_layers: int = 4, hidden_size: int = 32, **values: Any
) -> PretrainedConfig:
    """A random model's configuration, by the family's own keys: a few layers, narrow.

    `values` stand beside the family's `small` ones.
    """
    stated = yaml.safe_load((FOLDER / f"{family}.yaml").read_text("utf-8"))
    sizes = {
        "num_layers": num_layers,
        "hidden_size": hidden_size,
        "ffn_size": 48,
        "max_positions": 64,
    }
    own = {keys[0]: sizes[name] for name, keys in stated["config"].items() if keys}
    chosen = {"vocab_size": VOCABULARY, **own, **stated["small"], **values}
    return AutoConfig.for_model(family, **chosen)


def save_tiny(family: str, folder: Path, num_layers: int = 4, seed: int = 0, **values: Any) -> Path:
    """A random checkpoint with its tokenizer, as `save_pretrained` writes it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(family, num_layers, **values))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                # Larger than the default scale: with that the logits would be nearly uniform.
                torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(folder, safe_serialization=True)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long tests first: of several workers none is then left with one of them at the end.

    A method on a family is slow, too, unless it is one of three or the family one of two, of which
    a variant is left one.
    """
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            method, family = (item.callspec.params.get(key) for key in ("name", "backbone"))
            quick = QUICK_FAMILIES[1:] if method in VARIANTS else QUICK_FAMILIES
            if method and family and method not in QUICK_METHODS and family not in quick:
                item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One random checkpoint folder for each family."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: save_tiny(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="session")
def fresh(checkpoints: dict[str, Path]) -> Callable[[str], Backbone]:
    """Gives a tiny backbone of a family that nobody has touched, quicker than loading one."""
    loaded: dict[str, Backbone] = {}

    def made(family: str) -> Backbone:
        if family not in loaded:
            loaded[family] = load_backbone(checkpoints[family])
        one = loaded[family]
        return replace(one, model=copy.deepcopy(one.model), micro_batch=MicroBatch())

    return made


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest, fresh: Callable[[str], Backbone]) -> Backbone:
    """A tiny backbone, once for each family."""
    return fresh(request.param)


@pytest.fixture
def llama(fresh: Callable[[str], Backbone]) -> Backbone:
    """A tiny Llama."""
    return fresh("llama")


@pytest.fixture(scope="session")
def editing_data() -> Path:
    """Folder of real data files; tests that need it are skipped, saying so, without it."""
    folder = os.environ.get("EDITING_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("EDITING_DATA names no folder with real data")
    return Path(folder)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def empty_database(shared: Path) -> Path:
    """MLflow's tables without a run, as a first driver makes them; it takes seconds.

    The folder bears whatever has a meaning in an address.
    """
    from mlflow import MlflowClient

    from orchestrator.tracking.mirror import tracking_uri

    store = shared / "100% a%20b?c=d#e"
    with FileLock(shared / "empty.lock"):
        store.mkdir(exist_ok=True)
        MlflowClient(tracking_uri(store)).search_experiments()
    return store / "mlflow.db"


@pytest.fixture(scope="session")
def chunker() -> Chunker:
    """A tool that takes seconds to load; it answers alike whoever used it before."""
    data = os.environ.get("EDITING_DATA")
    try:
        return nltk_chunker(Path(data) / "nltk_data" if data else None)
    except ConfigError:  # without NLTK's data: some name is found in every prompt
        return lambda text: [(0, text.find(" "))] if " " in text else []
