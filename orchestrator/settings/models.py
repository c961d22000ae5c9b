"""Search spaces and command line -> one checked configuration.

`typed` reads `key=value`; `composition` merges the files. Values typed are laid over them
here, because the `scales` block of an ablation has to come between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from orchestrator.errors import UsageError
from orchestrator.settings.ablation_file import check_ablation
from orchestrator.settings.addresses import LOCAL, cluster_address, mlflow_server, object_storage
from orchestrator.settings.arms import selected
from orchestrator.settings.complaints import complaint
from orchestrator.settings.composition import compose, merge, own_choices
from orchestrator.settings.obeyed import check_obeyed
from orchestrator.settings.sharing import GPU_GIB, Parallel, Sharing
from orchestrator.settings.typed import Known, parse, split
from orchestrator.settings.yaml_files import FOLDER, GROUPS, SearchSpaces

Order = Literal[
    "given",
    "random",
    "kmeans_filled",
    "kmeans_unequal",
    "kmeans_balanced",
    "hierarchical",
    "reversed_kmeans",
]
Count = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]  # more is a slip of the finger
Amount = Annotated[float, Field(gt=0, le=1e9, strict=True)]
MOST_SEED = 2**32 - 1  # NumPy takes no larger one
Seed = Annotated[int, Field(ge=0, le=MOST_SEED, strict=True)]


def _differ(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError("give at least one seed, and each only once")
    return seeds


Seeds = Annotated[tuple[Seed, ...], AfterValidator(_differ)]
_SCORES = (
    *("average", "reliability", "generality"),
    *("locality_far", "locality_near", "locality_same"),
)
_MEASURES = ("token", "exact")


def _compared(metric: str) -> str:
    score, _, measure = metric.partition(".")
    if score not in _SCORES or measure not in _MEASURES:
        raise ValueError(
            f"write SCORE.MEASURE, SCORE one of {', '.join(_SCORES)}, "
            f"MEASURE one of {', '.join(_MEASURES)}"
        )
    return metric


Compared = Annotated[str, AfterValidator(_compared)]
PARTS = ("method", "backbone", "dataset")  # groups of which a trial takes one choice each
COMMAND_LINE = "command line"
# Fields that are no keys.
_NOT_TYPED = frozenset({"choices", "layers", "own_units", "spaces", "arms", "question"})


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Protocol(_Model):
    """How edits are drawn, cut into batches and scored; None where a default follows from the rest.

    Attributes:
        kind: `single` and `batch` roll back after every batch, `lifelong` and `serial` never do;
            `serial` edits every question several times.
        num_edits: Edits of one batch (`batch`), else edits in all; follows from the other counts
            in `serial` and where `group_sizes` is given.
        edit_batch_size: Edits per batch; 1 in `single`, `num_edits` in `batch`.
        num_batches: Batches that are averaged (`batch`), or into which the stream is cut
            (`lifelong`).
        order: Order of the edits; None is the method's own.
        order_seed: Seed of that order, so that the same edits can be put in several; None is the
            trial's.
        num_questions: Questions of a serial stream.
        answers_per_question: Answers that each of them gets in turn.
        group_sizes: Edits drawn from each group of similar records, the largest group first.
        curve: Also score the reliability of all edits so far after every batch of a stream.
    """

    kind: Literal["single", "batch", "lifelong", "serial"] = "batch"
    num_edits: Count = 30
    edit_batch_size: Count | None = None
    num_batches: Count | None = None
    order: Order | None = None
    order_seed: Seed | None = None
    num_questions: Count | None = None
    answers_per_question: Count | None = None
    group_sizes: list[Annotated[int, Field(ge=0, strict=True)]] | None = None
    target_ends_with_eos: bool = True
    generate: bool = False
    curve: bool = False


class Scheduler(_Model):
    """Which trials are stopped early.

    Attributes:
        name: `fifo` stops none.
        metric: `<score>.<measure>` compared at a rung; `average` is the mean of its three scores.
        grace: Progress in (0, 1] before which nothing is stopped.
        reduction_factor: One in so many trials passes a rung.
        protect: Arms, or methods, that are never stopped.
    """

    name: Literal["fifo", "asha", "median"] = "fifo"
    metric: Compared = "average.token"
    grace: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.25
    reduction_factor: Annotated[int, Field(ge=2, strict=True)] = 2
    protect: tuple[str, ...] = ()


class Rerun(_Model):
    """Which arms of a search run again, and on what."""

    best: Count = 3
    part: str = "report"
    seeds: Seeds = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Layer:
    """Values from one source, by dotted key; a later layer wins over an earlier one."""

    source: str
    values: Mapping[str, Any] = field(default_factory=dict)


class SweepConfig(_Model):
    """One sweep as typed and composed, before it is expanded into trials.

    Attributes:
        choices: Name chosen per group, `{"method": "lemoe", "backbone": "facts", ...}`.
        layers: Values of `method.*`, `backbone.*`, `dataset.*` and `protocol.*` by source, weakest
            first.
        axes: Values, or one distribution for a search, per dotted key.
        arms: Named settings, crossed with the axes.
        own_units: Axes typed on the command line: their values are not scaled to the backbone.
        paper: Ids of the published tables and figures that the ablation answers.
        published_on: Backbone whose depth and width the ablation's layers and ranks refer to.
        cluster: `local`: a Ray of this machine's own; `auto`, or an address: one that runs already.
        mlflow: Address of an MLflow server; None: the database in the store.
        copies: Address on object storage where the store's results are copied to; see `copies`.
        niceness: Of the workers of a local Ray; Ray's own 15 starves them beside other work.
        parallel, gpus_per_trial, gpu_gib: see `sharing.Sharing`.
        max_trial_seconds: A trial that takes longer has failed.
        max_silent_seconds: A sweep in which nothing moves for so long ends; None: never.
        max_trials_per_process: A worker process that has run so many gives way to a new one.
        stands_for: Per key, the published value that a value of an axis or arm stands for.
    """

    ablation: str
    question: str = ""
    paper: tuple[str, ...] = ()
    published_on: str | None = None
    plan: Literal["grid", "one_at_a_time", "search"] = "grid"
    axes: dict[str, list[Any] | dict[str, Any]] = {}
    arms: dict[str, dict[str, Any]] = {}
    where: tuple[str, ...] = ()
    stands_for: dict[str, dict[Any, Any]] = {}
    seeds: Seeds = (0,)
    protocol: Protocol = Protocol()
    scheduler: Scheduler = Scheduler()
    num_trials: Count | None = None
    rerun: Rerun | None = None
    store: Annotated[str, Field(min_length=1)] = "results"
    workers: Count | None = None
    niceness: Annotated[int, Field(ge=0, le=19, strict=True)] = 0
    cluster: Annotated[str, AfterValidator(cluster_address)] = LOCAL
    mlflow: Annotated[str, AfterValidator(mlflow_server)] | None = None
    copies: Annotated[str, AfterValidator(object_storage)] | None = None
    parallel: Parallel | None = None
    gpus_per_trial: Count | None = None
    gpu_gib: Amount = GPU_GIB
    max_trial_seconds: Amount | None = None
    max_silent_seconds: Amount | None = 900.0
    max_trials_per_process: Count = 500
    choices: dict[str, str]
    layers: tuple[Layer, ...]
    own_units: frozenset[str]
    spaces: SearchSpaces = Field(exclude=True, repr=False)

    @field_validator("paper", mode="before")
    @classmethod
    def _one_or_several(cls, paper: Any) -> Any:
        """`paper: lemoe_table9` as well as a list of tables."""
        return () if paper is None else (paper,) if isinstance(paper, str) else paper

    @property
    def sharing(self) -> Sharing:
        """How trials use GPUs."""
        return Sharing(self.parallel, self.gpus_per_trial, self.gpu_gib)

    @property
    def scale(self) -> str:
        """`quick` or `paper`."""
        return self.choices["scale"]


def load(overrides: Sequence[str], folder: Path = FOLDER) -> SweepConfig:
    """The sweep that `overrides` (`key=value` as typed) ask for.

    Precedence, weakest first: config.yaml, the chosen files, scale, ablation, the ablation's block
    for that scale, command line. A key typed that the ablation sweeps pins that axis to the one
    value.

    Raises:
        UsageError: For anything unknown, unreadable or out of range, with what was typed and what
        is allowed.
    """
    parsed = parse(overrides, known_words())
    spaces = SearchSpaces(folder)
    return _load(spaces, *split(parsed, spaces))


def load_store(overrides: Sequence[str]) -> str:
    """The store that `overrides` name where no ablation is asked for.

    Raises:
        UsageError: If anything else is typed.
    """
    parsed = parse(overrides, known_words())
    if others := sorted(parsed.keys() - {"store"}):
        raise UsageError(f"{others[0]}: without ablation=NAME nothing but store=... counts")
    return str(parsed.get("store", SweepConfig.model_fields["store"].default))


def known_words() -> Known:
    """What a typed key may begin with, and which words may follow."""
    known: dict[str, Any] = {name: () for name in (*SweepConfig.model_fields, *GROUPS)}
    known |= {name: None for name in (*PARTS, "axes", "stands_for")}
    for name, model in (("protocol", Protocol), ("scheduler", Scheduler), ("rerun", Rerun)):
        known[name] = tuple(model.model_fields)
    return {name: words for name, words in known.items() if name not in _NOT_TYPED}


def load_plain(spaces: SearchSpaces, chosen: Mapping[str, str]) -> SweepConfig:
    """As `load` with nothing but choices of groups typed; `spaces` are parsed once for many."""
    return _load(spaces, chosen, {})


def _load(spaces: SearchSpaces, chosen: Mapping[str, str], typed: Mapping[str, Any]) -> SweepConfig:
    if "ablation" not in chosen:
        names = ", ".join(spaces.names("ablation"))
        raise UsageError(f"ablation=NAME is missing; known: {names or 'none'}")
    ablation = spaces.load("ablation", chosen["ablation"])
    check_ablation(spaces, chosen["ablation"], known_words())
    scale = compose(spaces, chosen)[1]["scale"]
    block = (ablation.get("scales") or {}).get(scale) or {}
    named = {
        group: name for group, name in block.items() if group in GROUPS and isinstance(name, str)
    }
    values, choices = compose(spaces, {**named, **chosen})
    block = {key: value for key, value in block.items() if key not in named}
    _keep_chosen_arms(spaces, values, block, named, chosen)
    if "scheduler" in chosen:
        block.pop("scheduler", None)
    return _build(spaces, values, choices, block, chosen, typed)


def _keep_chosen_arms(
    spaces: SearchSpaces,
    values: dict[str, Any],
    block: dict[str, Any],
    named: Mapping[str, str],
    chosen: Mapping[str, str],
) -> None:
    """Merges the arms of `values` and `block`, and leaves those that `chosen` asks for."""
    arms = dict(values.get("arms") or {})
    merge(arms, block.pop("arms", None) or {})
    arms = {name: settings for name, settings in arms.items() if settings is not None}
    for part in PARTS:
        if part in chosen and arms:
            ablation = chosen["ablation"]
            default = named.get(part) or own_choices(spaces, ablation)[part]
            arms = selected(arms, part, chosen[part], default, ablation)
    values["arms"] = arms


def _build(
    spaces: SearchSpaces,
    values: dict[str, Any],
    choices: dict[str, str],
    block: Mapping[str, Any],
    chosen: Mapping[str, str],
    typed: Mapping[str, Any],
) -> SweepConfig:
    """Lays scale block and command line over the composed `values` and checks the whole."""
    ablation = choices["ablation"]
    layers = (
        Layer("config.yaml", _dotted(spaces.root())),
        Layer(f"scale {choices['scale']}", _dotted(spaces.load("scale", choices["scale"]))),
        Layer(f"ablation {ablation}", _dotted(spaces.load("ablation", ablation))),
        Layer(f"ablation {ablation}, {choices['scale']}", _dotted(block)),
        Layer(COMMAND_LINE, {key: value for key, value in typed.items() if _is_part(key)}),
    )
    for part in PARTS:
        values.pop(part, None)  # a trial takes these by layers: the choice may be swept
    values.pop("scales", None)
    merge(values, {key: value for key, value in block.items() if key not in PARTS})
    axes, own_units = _axes(values.pop("axes", None) or {}, typed)
    for key, value in {**chosen, **typed}.items():
        if key in axes and not isinstance(axes[key], dict):
            axes[key] = [value]  # typed: the axis is pinned, and still named in the arm
            own_units.add(key)
        elif isinstance(axes.get(key), dict):
            del axes[key]  # a search over it is off
    for key, value in typed.items():
        first, _, rest = key.partition(".")
        if first == "stands_for" and rest:
            values["stands_for"] = {**(values.get("stands_for") or {}), rest: value}
        elif first != "axes" and first not in PARTS:
            _set(values, key, value)
    values.update(ablation=ablation, question=values.get("question") or spaces.question(ablation))
    try:
        made = SweepConfig(
            **values,
            axes=axes,
            choices=choices,
            layers=layers,
            own_units=frozenset(own_units),
            spaces=spaces,
        )
    except ValidationError as error:
        raise complaint(error, SweepConfig, {*PARTS, "scale"}, _NOT_TYPED) from error
    except TypeError as error:  # a key of ours, typed: "choices=...", "layers=..."
        raise UsageError(f"{', '.join(typed)}: {error}") from error
    check_obeyed(made, typed)
    return made


def _axes(axes: dict[str, Any], typed: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """The axes with those typed laid over them, and the names of the latter; null drops an axis."""
    merged = dict(axes)
    own: set[str] = set()
    for key, value in typed.items():
        if key == "axes":
            if not isinstance(value, dict):
                raise UsageError(f"axes={value}: write axes={{method.lora_rank:[4,8]}}")
            merged = dict(value)
            own |= set(value)
        elif key.startswith("axes."):
            name = key.removeprefix("axes.")
            merged[name] = value
            own.add(name)
    for name, values in merged.items():
        if not (
            values is None or isinstance(values, dict) or (isinstance(values, list) and values)
        ):
            raise UsageError(f"axes.{name}={values}: give a list of values, axes.{name}=[...]")
    return {str(name): values for name, values in merged.items() if values is not None}, own


def _is_part(key: str) -> bool:
    return "." in key and key.split(".")[0] in (*PARTS, "protocol")


def _dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """`method.*`, `backbone.*`, `dataset.*` and `protocol.*` of a file, by dotted key."""
    return {
        f"{part}.{key}": value
        for part in (*PARTS, "protocol")
        if isinstance(values.get(part), dict)
        for key, value in values[part].items()
    }


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for index, part in enumerate(path):
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UsageError(
                f"{key}: {'.'.join(path[: index + 1])} is a single value, without keys"
            )
    values[last] = value
