"""The settings of one sweep: all keys with their types, ranges and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from orchestrator.settings.addresses import LOCAL, cluster_address, mlflow_server, object_storage
from orchestrator.settings.file_headers import Order
from orchestrator.settings.metrics import Compared, compared
from orchestrator.settings.sharing import GPU_GIB, Parallel, Sharing
from orchestrator.settings.yaml_files import SearchSpaces

Count = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]  # more is a slip of the finger
Amount = Annotated[float, Field(gt=0, le=1e9, strict=True)]


def _auto_or_count(pack: Any) -> Any:
    is_count = isinstance(pack, int) and not isinstance(pack, bool) and 1 <= pack <= MOST_PACKED
    if pack != "auto" and not is_count:
        raise ValueError(f"must be auto or a number from 1 to {MOST_PACKED}")
    return pack


MOST_PACKED = 1000
Pack = Annotated[int | Literal["auto"], BeforeValidator(_auto_or_count)]
MOST_SEED = 2**32 - 1  # NumPy takes no larger one
Seed = Annotated[int, Field(ge=0, le=MOST_SEED, strict=True)]


def _differ(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError("give at least one seed, and each only once")
    return seeds


def _named_once(tasks: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(tasks)) < len(tasks) or not all(tasks):
        raise ValueError("name each task only once")
    return tasks


Seeds = Annotated[tuple[Seed, ...], AfterValidator(_differ)]


def _comparable(metric: str) -> str:
    return compared(metric).name


PARTS = ("method", "backbone", "dataset")  # groups of which a trial takes one choice each
COMMAND_LINE = "command line"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Protocol(_Model):
    """How edits are drawn, divided into batches and scored; None: follows from the other values.

    Attributes:
        kind: `single` and `batch` roll back after every batch, `lifelong` and `serial` never do;
            `serial` edits every question several times.
        num_edits: Edits of one batch (`batch`), else edits in all; follows from the other counts
            in `serial` and where `group_sizes` is given.
        edit_batch_size: Edits per batch; 1 in `single`, `num_edits` in `batch`.
        num_batches: Batches that are averaged (`batch`), or into which the stream is divided
            (`lifelong`).
        order: Order of the edits; None is the method's own.
        order_seed: Seed of that order, so that the same edits can run in several orders; None is
            the trial's.
        num_questions: Questions of a serial stream.
        answers_per_question: Answers that each of them gets in turn.
        update_order: How these follow each other: by rounds of all questions, in bursts of one
            question, or shuffled.
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
    update_order: Literal["rounds", "bursts", "random"] = "rounds"
    group_sizes: list[Annotated[int, Field(ge=0, strict=True)]] | None = None
    target_ends_with_eos: bool = True
    generate: bool = False
    curve: bool = False


class Evaluate(_Model):
    """What else an edited model is asked.

    Attributes:
        ability: Tasks that no edit is about, by name.
        questions: Most questions of each; None: all.
        path: Folder or file with the tasks' questions, or several.
    """

    ability: Annotated[tuple[str, ...], AfterValidator(_named_once)] = ()
    questions: Count | None = None
    path: str | tuple[str, ...] | None = None

    @field_validator("ability", mode="before")
    @classmethod
    def _one_or_several(cls, ability: Any) -> Any:
        """`evaluate.ability=boolq` as well as a list of tasks."""
        return (ability,) if isinstance(ability, str) else ability


class Scheduler(_Model):
    """Which trials are stopped early.

    Attributes:
        name: `fifo` stops none.
        metric: The score that is compared at a rung; `settings.metrics` says which may be.
        grace: Progress in (0, 1] before which nothing is stopped.
        reduction_factor: One in so many trials passes a rung.
        protect: Arms, or methods, that are never stopped; `published`: those that stand for a cell
            which the published table prints.
    """

    name: Literal["fifo", "asha", "median"] = "fifo"
    metric: Annotated[str, AfterValidator(_comparable)] = "average.token"
    grace: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.25
    reduction_factor: Annotated[int, Field(ge=2, strict=True)] = 2
    protect: tuple[str, ...] = ()

    @property
    def compared(self) -> Compared:
        """The numbers that `metric` names, and whether large or small is better."""
        return compared(self.metric)


class PrintedCells(_Model):
    """The cells of a grid that a published table prints; `scheduler.protect=published` names them.

    Attributes:
        file: CSV file with one row a cell, relative to the folder of the search spaces.
        columns: Its column for each swept key.
    """

    file: str
    columns: Annotated[dict[str, str], Field(min_length=1)]


class Rerun(_Model):
    """Which arms of a search run again, and on what; `untuned`: also one without any draw."""

    best: Count = 3
    part: str = "report"
    seeds: Seeds = (0, 1, 2, 3, 4)
    untuned: bool = False


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
        arm_values: Settings typed for one arm, or one method, of several.
        presets: File of values for methods, above the backbone's own presets; `published`: without
            the latter.
        start_at: `presets`: a search's first trial has what was chosen before for the method and
            this backbone.
        preset_values: The content of that file, by method.
        own_units: Axes typed on the command line: their values are not scaled to the backbone.
        paper: Ids of the published tables and figures that the ablation answers.
        printed_cells: Where those stand that `scheduler.protect=published` means.
        published_on: Backbone whose depth and width the ablation's layers and ranks refer to.
        cluster: `local`: a Ray of this machine's own; `auto`, or an address: one that runs already.
        mlflow: Address of an MLflow server; None: the database in the store.
        copies: Address on object storage where the store's results are copied to; see `copies`.
        report: `live`: the store's report page is written again and again while the sweep runs.
        niceness: Niceness of a local Ray's workers; with Ray's own 15, other work starves them.
        parallel, gpus_per_trial, gpu_gib: see `sharing.Sharing`.
        pack: Most trials that a process trains together; `auto`: several where that is quicker.
        max_trial_seconds: A trial that takes longer has failed.
        max_silent_seconds: A sweep in which nothing moves for so long ends; None: never.
        max_trials_per_process: A worker process that has run so many gives way to a new one.
        stands_for: Per key, the published value that a value of an axis or arm stands for.
    """

    ablation: str
    question: str = ""
    paper: tuple[str, ...] = ()
    printed_cells: PrintedCells | None = None
    published_on: str | None = None
    presets: Annotated[str, Field(min_length=1)] | None = None
    plan: Literal["grid", "one_at_a_time", "search", "tune"] = "grid"
    axes: dict[str, list[Any] | dict[str, Any]] = {}
    arms: dict[str, dict[str, Any]] = {}
    where: tuple[str, ...] = ()
    stands_for: dict[str, dict[Any, Any]] = {}
    seeds: Seeds = (0,)
    protocol: Protocol = Protocol()
    evaluate: Evaluate = Evaluate()
    scheduler: Scheduler = Scheduler()
    num_trials: Count | None = None
    start_at: Literal["nothing", "presets"] = "nothing"
    rerun: Rerun | None = None
    store: Annotated[str, Field(min_length=1)] = "results"
    workers: Count | None = None
    niceness: Annotated[int, Field(ge=0, le=19, strict=True)] = 0
    cluster: Annotated[str, AfterValidator(cluster_address)] = LOCAL
    mlflow: Annotated[str, AfterValidator(mlflow_server)] | None = None
    copies: Annotated[str, AfterValidator(object_storage)] | None = None
    report: Literal["none", "live"] = "none"
    parallel: Parallel | None = None
    gpus_per_trial: Count | None = None
    gpu_gib: Amount = GPU_GIB
    pack: Pack = 1
    max_trial_seconds: Amount | None = None
    max_silent_seconds: Amount | None = 900.0
    max_trials_per_process: Count = 500
    choices: dict[str, str]
    arm_values: dict[str, dict[str, Any]] = {}
    preset_values: dict[str, dict[str, Any]] = {}
    layers: tuple[Layer, ...]
    own_units: frozenset[str]
    spaces: SearchSpaces = Field(exclude=True, repr=False)

    @field_validator("paper", mode="before")
    @classmethod
    def _one_or_several(cls, paper: Any) -> Any:
        """`paper: lemoe_table9` as well as a list of tables."""
        return () if paper is None else (paper,) if isinstance(paper, str) else paper

    @property
    def papers(self) -> tuple[str, ...]:
        """The papers of these tables: `lemoe` of `lemoe_table9`."""
        return tuple(
            dict.fromkeys(
                table.partition("_table")[0].partition("_figure")[0] for table in self.paper
            )
        )

    @property
    def sharing(self) -> Sharing:
        """How trials use GPUs."""
        return Sharing(self.parallel, self.gpus_per_trial, self.gpu_gib)

    @property
    def is_search(self) -> bool:
        """Whether Optuna draws the trials."""
        return self.plan in ("search", "tune")

    @property
    def scale(self) -> str:
        """`quick` or `paper`."""
        return self.choices["scale"]
