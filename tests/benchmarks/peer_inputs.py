"""What both sides of peer.py are given: the model, the records, their tokens, second moments.

Run as a process of its own, which ends before anything is timed:

    python -m tests.benchmarks.peer_inputs FOLDER '{"backbone": ..., "edits": 10, ...}'
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.interfaces import Backbone, EditRecord

SEED = 0
FILES = {
    "wise": "wise_merge",
    "answers": "no_edit",
}  # methods of another name in search_spaces/method
NUM_TRAINING = 50  # prompts that WISE takes its scale from
_PUBLISHED_LAYERS = 32  # of the backbone whose layers the settings name
_SPARE = 3  # so many times more records are drawn than are edited, as not all can be taken

_VECTOR: dict[str, Any] = {
    "v_lr": 0.5,
    "v_num_steps": 24,  # updates; the peer's 25 count a last look at the loss
    "v_weight_decay": 1e-3,
    "stop_loss": 5e-2,
    "clamp": 4.0,
    "kl_weight": 0.0625,
    "kl_position": "subject",  # as the peer
}

# As published for LLaMA2-7B, in the names of search_spaces/method, but for MEMIT's lambda, whose
# published 15,000 edits next to nothing on a small model, fewer steps of GRACE and WISE, and fewer
# contexts of ROME's relatives; AlphaEdit's are those of its published code for another backbone.
SETTINGS: dict[str, dict[str, Any]] = {
    "answers": {},
    "ft_m": {"edit_layer": 21, "edit_lr": 5e-4, "num_steps": 25, "stop_loss": 1e-2},
    "grace": {
        "edit_layer": 27,
        "edit_lr": 1.0,
        "num_steps": 50,
        "deferral_radius": 1.0,
        "skip_correct": False,  # the peer edits all that it is told
    },
    "rome": _VECTOR | {"edit_layer": 5, "covariance": "identity", "contexts": 0},
    "r_rome": _VECTOR
    | {"edit_layer": 5, "covariance": "identity", "contexts": 2, "context_lengths": [5]},
    "lora": {
        "lora_rank": 8,
        "lora_alpha": 32,
        "dropout": 0.0,  # the peer's is on while it answers, too
        "edit_lr": 1e-3,
        "num_steps": 50,
        "stop_loss": None,
    },
    "alphaedit": _VECTOR
    | {
        "layers": [4, 5, 6, 7, 8],
        "null_threshold": 2e-2,
        "l2_weight": 10.0,
        "accumulate_keys": True,
        "contexts": 0,
        "covariance_tokens_per_dim": 3,
    },
    "memit": _VECTOR
    | {
        "layers": [4, 5, 6, 7, 8],
        "cov_weight": 500.0,
        "contexts": 0,
        "covariance_tokens_per_dim": 3,
    },
    "wise": {
        "edit_layer": 27,
        "edit_lr": 1.0,
        "num_steps": 20,
        "stop_loss": None,  # the peer's rule of two losses alike does not end so short a run
        "mask_ratio": 0.2,
        "margin_far": 5.0,
        "margin_edit": 20.0,
        "margin_gap": 10.0,
        "activation": "silu_difference",
        "hinge_mean": "positive",
        "threshold_ratio": 0.88,
        "weight_decay": 1e-5,
        "norm_bound": 1.0,
    },
}


@dataclass(frozen=True)
class Probe:
    """A prompt with its answer that both sides are scored on, as token ids and as text."""

    score: str
    ids: list[int]
    prompt_length: int
    prompt: str = ""
    answer: str = ""

    @property
    def target(self) -> list[int]:
        """The answer's tokens."""
        return self.ids[self.prompt_length :]


@dataclass(frozen=True)
class Record:
    """One edit and the prompts that it is scored on; the edit's own comes first."""

    prompt: str
    target_new: str
    subject: str
    unrelated: str
    probes: list[Probe]


@dataclass(frozen=True)
class Inputs:
    """All that both sides read.

    Attributes:
        model: Folder of the checkpoint.
        num_layers: Of its decoder.
        modules: Names of its parts; a layer's number goes where {} stands.
        records: What is edited.
        training: Prompts that no record has.
        contexts: Prefixes that R-ROME takes, as this project samples them.
    """

    model: str
    num_layers: int
    modules: dict[str, str]
    records: list[Record]
    training: list[str]
    contexts: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Inputs:
        """What `main` wrote."""
        values = json.loads(inputs_file(folder).read_text("utf-8"))
        records = [
            Record(**{**record, "probes": [Probe(**probe) for probe in record["probes"]]})
            for record in values.pop("records")
        ]
        return cls(records=records, **values)

    @property
    def probes(self) -> list[Probe]:
        """Those of all records, in their order."""
        return [probe for record in self.records for probe in record.probes]

    def settings(self, method: str) -> dict[str, Any]:
        """`SETTINGS` with the layers of this model."""
        found = dict(SETTINGS[method])
        if "edit_layer" in found:
            found["edit_layer"] = self._layer(found["edit_layer"])
        if "layers" in found:
            found["layers"] = sorted({self._layer(layer) for layer in found["layers"]})
        return found

    def _layer(self, published: int) -> int:
        return round(published * self.num_layers / _PUBLISHED_LAYERS)


def inputs_file(folder: Path) -> Path:
    """Where `Inputs` are written in the folder of a run."""
    return folder / "inputs.json"


def moments_file(folder: Path) -> Path:
    """Where the second moments of MEMIT's layers are written."""
    return folder / "moments.safetensors"


def store_folder(folder: Path) -> Path:
    """The store of what this side samples."""
    return folder / "artefacts"


def tokens_file(folder: Path) -> Path:
    """The text of each token of the vocabulary, by its id."""
    return folder / "tokens.json"


def text_file(folder: Path) -> Path:
    """The text that they are taken of."""
    return folder / "text.txt"


def _write(folder: Path, backbone: str, num_edits: int, records: str | None) -> None:
    """Draw the records and find everything else that both sides read."""
    from orchestrator.planning import plan
    from orchestrator.settings import loading as config
    from trainables.backbones.loading import load_backbone
    from trainables.cache import default_cache
    from trainables.edits.drawing import draw
    from trainables.edits.sources import backbone_folder, open_source
    from trainables.spec import TrialSpec

    data = ["dataset=countries", "dataset.known_only=false"]
    if records is not None:
        data = ["dataset=counterfact", f"dataset.path={records}"]
    key = "backbone.model" if Path(backbone).is_dir() else "backbone"
    typed = ["ablation=smoke", "method=no_edit", f"{key}={backbone}", "seeds=[0]", *data]
    config_ = config.load([*typed, f"protocol.num_edits={_SPARE * num_edits}"])
    (planned,) = plan.expand(config_).trials
    spec = TrialSpec.parse(planned.to_dict())
    source = open_source(spec, default_cache())
    loaded = load_backbone(backbone_folder(spec, default_cache()))
    fitting = (each for each in draw(spec, source).records if _can_be_taken(each))
    taken = []
    for each in islice(fitting, num_edits):
        unrelated = next(p for p in source.to_edit(each).training_locality if p not in each.prompt)
        taken.append(_record(loaded, each, unrelated))
    if len(taken) < num_edits:
        raise ValueError(f"only {len(taken)} records name their subject once in their prompt")
    family = loaded.family
    inputs = Inputs(
        model=str(loaded.folder),
        num_layers=loaded.num_layers,
        modules={
            "layer": f"{family.layers}.{{}}",
            "ffn": f"{family.layers}.{{}}.{family.ffn}",
            "down": f"{family.layers}.{{}}.{family.down}",
            "norm": family.final_norm,
            "head": _head(loaded),
            "query_value": " ".join(path.rpartition(".")[2] for path in family.query_value),
        },
        records=taken,
        training=[each.edit.prompt for each in source.training[:NUM_TRAINING]],
        contexts=_contexts(folder, loaded),
    )
    texts = [loaded.tokenizer.decode([index]) for index in range(len(loaded.tokenizer))]
    tokens_file(folder).write_text(json.dumps(texts))
    inputs_file(folder).write_text(json.dumps(asdict(inputs)))
    _write_moments(
        folder, loaded, inputs, [f"{e.edit.prompt} {e.edit.target_new}" for e in source.training]
    )


def _contexts(folder: Path, backbone: Backbone) -> list[str]:
    """Those that R-ROME finds in the store of the run, where this side looks for them again."""
    from trainables.artefacts import Artefacts
    from trainables.assemblies.ordinary_text import stored_contexts
    from trainables.backbones.forward.prefix_cache import PrefixCache
    from trainables.backbones.forward.split import Split

    settings = SETTINGS["r_rome"]
    (length,) = settings["context_lengths"]
    split, store = Split(backbone, 0, PrefixCache()), Artefacts(store_folder(folder))
    return list(stored_contexts(split, store, settings["contexts"], length))


def _can_be_taken(record: EditRecord) -> bool:
    """Whether the peer's template with a place for the subject can be made of the prompt."""
    subject, prompt = record.subject, record.prompt
    return bool(subject) and prompt.count(subject or "") == 1 and not {*"{}"} & {*prompt}


def _record(backbone: Backbone, record: EditRecord, unrelated: str) -> Record:
    from trainables.prompts import tokenise

    asked = [("reliability", record.prompt, record.target_new)]
    asked += [("generality", prompt, record.target_new) for prompt in record.rephrases[:1]]
    asked += [("locality", each.prompt, each.answer) for each in record.locality[:1]]
    probes = []
    for score, prompt, answer in asked:
        row = tokenise(backbone.tokenizer, prompt, answer)
        probes.append(Probe(score, list(row.ids), row.prompt_length, prompt, answer))
    return Record(record.prompt, record.target_new, record.subject or "", unrelated, probes)


def _head(backbone: Backbone) -> str:
    """Name of the module with the head's weight; with tied embeddings that is the embedding."""
    weight = backbone.model.get_output_embeddings().weight  # type: ignore[operator, union-attr]
    return next(
        name.removesuffix(".weight")
        for name, parameter in backbone.model.named_parameters()
        if parameter is weight
    )


def _write_moments(folder: Path, backbone: Backbone, inputs: Inputs, lines: Sequence[str]) -> None:
    from safetensors.torch import save_file

    from trainables.backbones.hidden_states.covariance import (
        different_passages,
        passage_batches,
        second_moments,
    )

    text_file(folder).write_text("\n".join(lines), encoding="utf-8")
    settings = inputs.settings("memit")
    num_tokens = settings["covariance_tokens_per_dim"] * backbone.ffn_size
    texts = different_passages(text_file(folder).read_text(encoding="utf-8").splitlines())
    batches = list(passage_batches(backbone, texts, num_tokens))
    if sum(int(batch.attention_mask.sum()) for batch in batches) < num_tokens:
        return  # of fewer tokens they are singular, and both sides' edits nothing but noise
    found = second_moments(backbone, settings["layers"], batches)
    save_file({str(layer): moment for layer, moment in found.items()}, moments_file(folder))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _write(Path(sys.argv[1]), **json.loads(sys.argv[2]))
