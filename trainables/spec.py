"""The settings of one trial, parsed once: the orchestrator sends a mapping, trials read attributes.

The mapping is `to_dict()` of the plan's own specification. Keys that only the planner reads are
known here and left out, so that a misspelt key is still refused.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from trainables.errors import ConfigError

EMBEDDED = "embedded:"  # begins the model of a backbone that is trained here
ROLLED_BACK = ("single", "batch")

Dtype = Literal["float32", "bfloat16", "float16"]
Part = Literal["tune", "report", "all"]

# Names for tables and forecasts, and shapes that a checkpoint says of itself.
_PLANNERS_OWN = {
    "": ("ablation", "swept", "published"),
    "backbone": (
        *("family", "num_layers", "hidden_size", "ffn_size", "vocabulary_size", "num_parameters"),
        *("memory_gib", "weights_gib", "edit_layer", "dequantised_from"),
    ),
    "dataset": ("max_edits", "source"),
    "protocol": ("answers",),
}


@dataclass(frozen=True)
class MethodSpec:
    """The method of a trial.

    Attributes:
        name: The arm's YAML.
        module: File in `trainables/methods`.
        settings: Fields of the module's Config.
    """

    name: str
    module: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, told: Mapping[str, Any]) -> MethodSpec:
        """Its settings stand beside name and module; which there are is for the Config to say.

        The reading of the paper is none of them: the plan has put its values in.
        """
        beside = ("name", "module", "reading")
        settings = {key: value for key, value in told.items() if key not in beside}
        names = {key: told[key] for key in ("name", "module") if key in told}
        return _part(cls, "method", {**names, "settings": settings})


@dataclass(frozen=True)
class PackageSpec:
    """The wheel of a package index that a backbone, or a sentence encoder, comes in.

    Attributes:
        name: Of the package.
        version: Of the package.
        file: Member of the wheel; of a backbone a GGUF file.
        sha256: Of that file.
    """

    name: str
    version: str
    file: str
    sha256: str


@dataclass(frozen=True)
class BackboneSpec:
    """The backbone of a trial.

    Attributes:
        name: Of its YAML.
        model: Model id, folder, GGUF file, `embedded:<name>`, or `packaged:<name>`.
        dtype: Of its weights in memory.
        revision: Of a model id.
        seed: Of an embedded backbone's training.
        data_path: File that it is trained on, where that is not the data set's.
        tf32: Whether a GPU may round the factors of float32 products.
        package: Where a packaged backbone comes from.
    """

    name: str
    model: str
    dtype: Dtype
    revision: str | None = None
    seed: int | None = None
    data_path: str | None = None
    tf32: bool = False
    package: PackageSpec | None = None

    @classmethod
    def parse(cls, told: Mapping[str, Any]) -> BackboneSpec:
        """With its package, if it comes in one."""
        package = told.get("package")
        if package is None:
            return _part(cls, "backbone", told)
        if not isinstance(package, Mapping):
            raise ConfigError(f"backbone.package is {package!r}; a trial is told a mapping there")
        made = _part(PackageSpec, "backbone.package", package)
        return _part(cls, "backbone", {**told, "package": made})

    @property
    def is_embedded(self) -> bool:
        """True for one that is trained on first use."""
        return str(self.model).startswith(EMBEDDED)

    @property
    def embedded_name(self) -> str:
        """Name of an embedded backbone."""
        return str(self.model).removeprefix(EMBEDDED)


@dataclass(frozen=True)
class DatasetSpec:
    """The data set of a trial.

    Attributes:
        name: Of its YAML.
        part: `tune`, `report` or `all`.
        module: In `trainables/datasets`; None: it bears the YAML's name.
        path: File or files; None: it needs none.
        answers: File of the answers of a serial stream; None: they are made from the data.
        target_field: Field of the file that is taught; None: the published one.
        version: Of the loader, where it was typed.
        keep_unchanged: Whether edits whose target was true before are drawn too.
        frequency_band: Shares [low, high] of the records, the most frequent at 0; None: all.
        frequency_source: What ranks them, `known` or `gece`.
        known_only: Whether only what the backbone answers rightly is edited, or asked for locality.
        locality: Which of its locality questions are the published locality: far, near or same.
    """

    name: str
    part: Part
    module: str | None = None
    path: str | Sequence[str] | None = None
    answers: str | None = None
    target_field: str | None = None
    version: int | None = None
    keep_unchanged: bool = False
    frequency_band: Sequence[float] | None = None
    frequency_source: str = "known"
    known_only: bool = False
    locality: Literal["far", "near", "same"] = "far"

    @property
    def module_name(self) -> str:
        """Name of the module that reads it."""
        return self.module or self.name

    def named_here(self, number: str) -> str:
        """What a trial on this data set calls `number`: `locality.token` is of one kind here."""
        score, dot, rest = number.partition(".")
        return f"{score}_{self.locality}{dot}{rest}" if score == "locality" else number


@dataclass(frozen=True)
class ProtocolSpec:
    """How the edits of a trial are applied and scored; `search_spaces/README.md` says more.

    Attributes:
        kind: `single` and `batch` are rolled back after every batch, `lifelong` and `serial` never.
        num_edits: Of one batch in `batch`, else in all.
        target_ends_with_eos: Whether the end token closes every target while editing.
        edit_batch_size: Edits per batch.
        num_batches: Batches that `batch` averages over.
        order: Of the edits; None: as they were drawn.
        order_seed: Of that order; None: the trial's.
        num_questions: Of a serial stream.
        answers_per_question: That each of them gets in turn.
        update_order: How the answers of a serial stream follow each other.
        group_sizes: Edits from each group of similar records; None: from all alike.
        generate: Whether free generation is scored, too.
        curve: Whether all edits so far are scored after every batch.
    """

    kind: Literal["single", "batch", "lifelong", "serial"]
    num_edits: int
    target_ends_with_eos: bool
    edit_batch_size: int | None = None
    num_batches: int | None = None
    order: str | None = None
    order_seed: int | None = None
    num_questions: int | None = None
    answers_per_question: int | None = None
    update_order: Literal["rounds", "bursts", "random"] = "rounds"
    group_sizes: Sequence[int] | None = None
    generate: bool = False
    curve: bool = False

    @property
    def is_rolled_back(self) -> bool:
        """True where each batch begins on the untouched backbone."""
        return self.kind in ROLLED_BACK

    @property
    def num_rounds(self) -> int:
        """Times that every question of a serial stream is answered; 1 in the other kinds."""
        return (self.answers_per_question or 1) if self.kind == "serial" else 1

    @property
    def num_repeats(self) -> int:
        """Batches of `num_edits` that are drawn."""
        return (self.num_batches or 1) if self.kind == "batch" else 1


@dataclass(frozen=True)
class EvaluateSpec:
    """What else is asked of an edited model; `search_spaces/README.md` says more.

    Attributes:
        ability: Names of tasks.
        questions: Most questions of each; None: all.
        path: Folder or file with the tasks' questions, or several.
    """

    ability: Sequence[str] = ()
    questions: int | None = None
    path: str | Sequence[str] | None = None


@dataclass(frozen=True)
class TrialSpec:
    """All that one trial is told.

    Attributes:
        seed: Of everything random.
        arm: Label for people; empty where nobody gave one.
        evaluate: What is asked beside the edits' own questions.
    """

    method: MethodSpec
    backbone: BackboneSpec
    dataset: DatasetSpec
    protocol: ProtocolSpec
    seed: int
    arm: str = ""
    evaluate: EvaluateSpec = EvaluateSpec()

    @classmethod
    def parse(cls, told: Mapping[str, Any]) -> TrialSpec:
        """The specification that the orchestrator's `TrialSpec.to_dict` wrote.

        Raises:
            ConfigError: Naming the first key that is missing, unknown, or no mapping where it must
                be one.
        """
        parts: dict[str, Any] = {
            "method": MethodSpec.parse(_mapping(told, "method")),
            "backbone": BackboneSpec.parse(_mapping(told, "backbone")),
        }
        kinds: dict[str, type[Any]] = {
            "dataset": DatasetSpec,
            "protocol": ProtocolSpec,
        }
        for name, kind in kinds.items():
            parts[name] = _part(kind, name, _mapping(told, name))
        # Not in what an earlier version wrote.
        parts["evaluate"] = _part(EvaluateSpec, "evaluate", told.get("evaluate") or {})
        return _part(cls, "", {**told, **parts})


Kind = TypeVar("Kind")


def _mapping(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if name not in told:
        raise ConfigError(f"{name} is missing in what a trial was told")
    if not isinstance(told[name], Mapping):
        raise ConfigError(f"{name} is {told[name]!r}; a trial is told a mapping there")
    found: Mapping[str, Any] = told[name]
    return found


def _part(kind: type[Kind], part: str, values: Mapping[str, Any]) -> Kind:
    """A dataclass of `kind` from its own keys; those of the planner are left out."""
    fields = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    dot, left_out = f"{part}." if part else "", _PLANNERS_OWN.get(part, ())
    for key in values:
        if key not in fields and key not in left_out:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {dot}{close[0]}?" if close else ""
            raise ConfigError(f"{dot}{key} is not known to a trial{hint}")
    for name, field in fields.items():
        has_default = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        if name not in values and not has_default:
            raise ConfigError(f"{dot}{name} is missing in what a trial was told")
    return kind(**{name: values[name] for name in fields if name in values})
