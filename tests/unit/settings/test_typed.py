"""Every word that is typed, and every line of an ablation's file, is obeyed or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.plan import Plan, expand
from orchestrator.settings import loading as config
from tests.unit.small_spaces import write_small_spaces


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_spaces(tmp_path_factory.mktemp("typed") / "search_spaces")


def plan(folder: Path, *typed: str) -> Plan:
    return expand(config.load(typed, folder))


def refusal(folder: Path, *typed: str) -> str:
    with pytest.raises(UsageError) as caught:
        _ = plan(folder, *typed).knowable  # of a search, what is checked before any trial runs
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


RANKS, METHODS, SEARCH = "ablation=ranks", "ablation=methods", "ablation=search"


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (["ablatoin=ranks"], ["ablatoin=ranks", "did you mean 'ablation'"]),
        ([RANKS, "größe=3"], ["größe=3", "known: ablation"]),
        ([RANKS, "method.größe=3"], ["method.größe=3", "letters, digits"]),
        ([RANKS, "seeds.first=3"], ["seeds.first", "single value"]),
        ([RANKS, "scheduler.gracee=1"], ["scheduler.gracee", "'grace'"]),
        ([SEARCH, "rerun.parts=tune"], ["rerun.parts", "'part'"]),
        ([RANKS, "protocol.num_edits.x=1"], ["protocol.num_edits.x", "single value"]),
        ([RANKS, "method.edit_lr = 1"], ["method.edit_lr = 1", "blank before the ="]),
        ([RANKS, "seeds=[0]", "seeds=[1]"], ["seeds is typed twice", "[0]", "[1]"]),
        (
            [RANKS, "protocol={kind:batch}", "protocol.kind=single"],
            ["protocol.kind is typed twice"],
        ),
        (
            [RANKS, "method.top_k=1", "axes.method.top_k=[1]"],
            ["method.top_k and axes.method.top_k are both typed"],
        ),
        ([RANKS, "axes={method.top_k:[1]}", "method.top_k=1"], ["are both typed"]),
        ([RANKS, "method=[moe,multi]"], ["method=['moe', 'multi']", "axes.method=[...]"]),
        ([RANKS, "method={edit_lr:1}"], ["method={'edit_lr': 1}", "method.KEY=VALUE"]),
        ([RANKS, "protocol={}"], ["protocol={}", "sets nothing"]),
        ([RANKS, "store=${x}"], ["store=${x}", "interpolation"]),
        ([RANKS, "store="], ["store=", "at least 1 character"]),
        ([RANKS, f"method.num_steps={'9' * 5000}"], ["method.num_steps=999", "cannot be read"]),
        ([RANKS, "store='a\nb"], ["store='a\\nb", "cannot be read"]),
        # names of files, and what describes them
        ([RANKS, "method.name=multi"], ["method.name", "choose with method=NAME"]),
        ([RANKS, "backbone.name=big"], ["backbone.name", "choose with backbone=NAME"]),
        ([RANKS, "dataset.name=world"], ["dataset.name", "choose with dataset=NAME"]),
        ([RANKS, "scheduler.name=asha"], ["scheduler.name", "choose with scheduler=NAME"]),
        ([RANKS, "axes.backbone.name=[big]"], ["axes.backbone.name", "axes.backbone=[NAME, ...]"]),
        ([RANKS, "method.order=random"], ["method.order", "'protocol.order'"]),
        ([RANKS, "method.module=multi"], ["method.module", "file of the method alone"]),
        ([RANKS, "dataset.version=2"], ["dataset.version", "file of the data set alone"]),
        # of no effect here
        (
            [RANKS, "protocol.kind=lifelong", "protocol.order=given", "protocol.order_seed=3"],
            ["protocol.order_seed=3", "protocol.order=given draws nothing"],
        ),
        ([RANKS, "scheduler.grace=0.5"], ["scheduler.grace", "fifo", "scheduler=asha"]),
        (
            [RANKS, "scheduler=asha", "scheduler.grace=1", "num_trials=2"],
            ["num_trials", "plan=grid"],
        ),
        ([RANKS, "start_at=presets"], ["start_at", "plan=tune", "plan=grid"]),
        ([RANKS, "start_at=best"], ["start_at=best", "'nothing'", "'presets'"]),
        ([RANKS, "num_trials=3"], ["num_trials", "plan=search", "plan=grid"]),
        ([RANKS, "rerun.best=3"], ["rerun.best", "plan=search"]),
        ([SEARCH, "where=['method.top_k < 3']"], ["where=", "a search draws", "where=[]"]),
        ([RANKS, "protocol.order_seed=3"], ["protocol.order_seed=3", "lifelong"]),
        ([RANKS, "dataset.path=README.md"], ["dataset.path", "not read from a file"]),
        ([RANKS, "backbone.num_layers=4"], ["backbone.num_layers=4", "embedded:tiny"]),
        ([RANKS, "backbone.revision=abc"], ["backbone.revision=abc", "embedded:tiny"]),
        # names that do not exist
        ([RANKS, "published_on=bigg"], ["published_on=bigg", "'big'"]),
        ([RANKS, "paper=lemoe_table99"], ["paper=lemoe_table99", "'lemoe_table9'"]),
        ([RANKS, "stands_for.method.top={1:2}"], ["stands_for.method.top", "'method.top_k'"]),
        # values
        ([RANKS, "backbone.memory_gib=-1"], ["backbone.memory_gib=-1", "above 0"]),
        ([RANKS, "backbone=big", "backbone.memory_gib=much"], ["memory_gib=much", "above 0"]),
        ([RANKS, "backbone.model=null"], ["backbone.model=null", "'embedded:tiny'"]),
        ([RANKS, "dataset.max_edits=0"], ["dataset.max_edits=0", "at least 1"]),
        ([RANKS, "dataset.max_edits={reprt:3}"], ["dataset.max_edits.reprt=3", "report"]),
        ([RANKS, "seeds=[5000000000]"], ["seeds=[5000000000]: ", "4294967295"]),
        ([RANKS, "seeds=[0,-1]"], ["seeds=[0, -1]: -1: ", "equal to 0"]),
        ([RANKS, "evaluate.path=3"], ["evaluate.path=3: must be a word"]),
        ([RANKS, "printed_cells={file:x}"], ["printed_cells={'file': 'x'}: columns: field req"]),
        ([RANKS, "stands_for={a:1}"], ["stands_for.a=1: must be a mapping"]),
        ([RANKS, "method.num_experts=0"], ["method.num_experts=0: must be at least 1"]),
        ([RANKS, "axes.method.num_experts=[0,10]"], ["method.num_experts=0: must be at least 1"]),
        ([SEARCH, "rerun.seeds=[1,1]"], ["rerun.seeds=[1, 1]", "only once"]),
        ([SEARCH, "rerun.part=reprt"], ["rerun.part=reprt", "report"]),
        ([RANKS, "gpu_gib=inf"], ["gpu_gib=inf", "1000000000"]),
        ([RANKS, "gpu_gib=true"], ["gpu_gib=True", "number"]),
        ([RANKS, "workers=99999999"], ["workers=99999999", "1000000"]),
        ([RANKS, "cluster=here"], ["cluster=here", "local, auto", "host:port"]),
        ([RANKS, "cluster='host:99999'"], ["cluster=host:99999", "host:port"]),
        (
            [RANKS, "protocol.num_batches=9"],
            ["protocol.num_batches=9", "60 edits", "9 batches of 8"],
        ),
        ([RANKS, "dataset.part=null"], ["dataset.part=null", "'report'"]),
        ([RANKS, "axes.method.edit_lr=[1e-3,1e-3]"], ["axes.method.edit_lr", "0.001", "twice"]),
        ([METHODS, "axes.method=[[moe]]"], ["axes.method=[['moe']]", "names"]),
        ([METHODS, "axes.method=[moe,null]"], ["axes.method=['moe', None]", "names"]),
        ([RANKS, "axes.method.edit_lr=[nan]"], ["method.edit_lr=NaN", "number"]),
    ],
)
def test_word_when_it_cannot_be_obeyed_then_one_line_names_it(
    folder: Path, typed: list[str], parts: list[str]
) -> None:
    message = refusal(folder, *typed)
    assert [part for part in parts if part not in message] == [], message


def test_word_when_a_mapping_is_typed_then_it_is_laid_over_key_by_key(folder: Path) -> None:
    whole = plan(folder, METHODS, "protocol={num_edits:5}", "seeds=[0]").trials[0]
    single = plan(folder, METHODS, "protocol.num_edits=5", "seeds=[0]").trials[0]
    assert whole == single
    assert whole.protocol["kind"] == "lifelong"  # the ablation's
    assert whole.origins["protocol.num_edits"].source == "command line"


def test_stands_for_when_typed_then_its_numbers_are_numbers(folder: Path) -> None:
    for typed in ("stands_for.method.lora_rank={4:16}", "stands_for={method.lora_rank:{4:16}}"):
        made = plan(folder, RANKS, "axes.method.lora_rank=[4]", typed)
        assert made.config.stands_for == {"method.lora_rank": {4: 16}}


ARMS = """
    # @package _global_
    # Which method?
    defaults: [override /method: moe]
    arms:
      plain: {}
      slow: {method.edit_lr: 1.0e-5}
      other: {method: multi, method.clamp: 1.0}
      gone: {method: none}
    method: {num_steps: 3}
    protocol: {num_edits: 8}
    scales: {quick: {arms: {gone: null}}}
    """


@pytest.fixture
def with_arms(folder: Path) -> Path:
    return ablation(folder, "arms", ARMS)


def ablation(folder: Path, name: str, text: str) -> Path:
    lines = [line.removeprefix("    ") for line in text.strip("\n").splitlines()]
    (folder / "ablation" / f"{name}.yaml").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    ("typed", "arms"),
    [
        ([], ["plain", "slow", "other"]),  # {} is an arm, null drops one
        (["method=moe"], ["plain", "slow"]),
        (["method=multi"], ["other"]),
        (["method=multi", "scale=paper"], ["other"]),
        (["method=none", "scale=paper"], ["gone"]),
        (["backbone=big"], ["plain", "slow", "other"]),  # no arm chooses a backbone
    ],
)
def test_arms_when_a_method_is_typed_then_those_that_use_it_are_left(
    with_arms: Path, typed: list[str], arms: list[str]
) -> None:
    made = plan(with_arms, "ablation=arms", *typed)
    assert list(made.arms) == arms
    scale = [word for word in typed if word.startswith("scale=")]
    whole = {trial.arm: trial for trial in plan(with_arms, "ablation=arms", *scale).trials}
    if "backbone=big" not in typed:
        for trial in made.trials:
            assert trial.method == whole[trial.arm].method


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (["method=none"], ["method=none", "ablation=arms", "other (multi)"]),
        (["method.edit_lr=1"], ["method.edit_lr", "ablation=arms", "arms: slow"]),
        (["method=multi", "method.clamp=2.0"], ["method.clamp", "arms: other"]),
    ],
)
def test_arms_when_a_typed_word_fits_none_then_they_are_listed(
    with_arms: Path, typed: list[str], parts: list[str]
) -> None:
    message = refusal(with_arms, "ablation=arms", *typed)
    assert [part for part in parts if part not in message] == [], message


def test_notes_when_only_some_methods_have_a_typed_key_then_they_are_named(folder: Path) -> None:
    note, _ = plan(folder, METHODS, "method.clamp=1.0").notes  # the other: no preset for multi
    assert note == "method.clamp holds for multi; none, moe have no such setting"
    assert plan(folder, RANKS, "method.edit_lr=1e-3").notes == ()
    note, _ = plan(folder, METHODS, "axes.method.clamp=[1.0,2.0]", "axes.method=[moe,multi]").notes
    assert note == "method.clamp holds for multi; moe has no such setting"


FILES: Mapping[str, Any] = {
    "unknown key": ("sedes: [1]", ["ablation=own: sedes", "'seeds'"]),
    "unknown scale": ("scales: {qick: {seeds: [1]}}", ["scales.qick", "'quick'"]),
    "unknown key of a scale": ("scales: {quick: {sedes: [1]}}", ["scales.quick: sedes", "'seeds'"]),
    "scale without keys": ("scales: {quick: [1]}", ["scales.quick", "mapping"]),
    "list of scales": ("scales: [quick]", ["scales", "mapping"]),
    "method by name": ("method: none", ["method: none", "override /method: none"]),
    "list of axes": ("axes: [method.top_k]", ["axes", "mapping"]),
    "axis without list": ("axes: {method.top_k: 3}", ["axes.method.top_k=3", "list"]),
    "empty axis": ("axes: {method.top_k: []}", ["axes.method.top_k=[]", "list"]),
    "list of arms": ("arms: [plain]", ["arms", "mapping"]),
    "arm without keys": ("arms: {plain: 3}", ["arms.plain", "mapping"]),
    "arm of another method": (
        "arms: {a: {method: multi, method.edit_lr: 1.0}}",
        ["arms.a.method.edit_lr", "multi"],
    ),
    "arm by two names": ("arms: {a: {method: [moe, multi]}}", ["arms.a.method", "name"]),
    "a key twice": ("seeds: [1]\nseeds: [2]", ["own.yaml", "'seeds' stands there twice"]),
    "a name of a part": ("backbone: {name: big}", ["backbone.name", "backbone=NAME"]),
    "wrong key of a part": ("backbone: {dtypes: float32}", ["backbone.dtypes", "'dtype'"]),
    "wrong key of a method": ("method: {edit_lrr: 1.0}", ["method.edit_lrr", "'method.edit_lr'"]),
    "no list of seeds": ("seeds: null", ["seeds=None", "list"]),
    "stands for nothing": ("stands_for: {method.top_k: {1: 2}}", ["stands_for.method.top_k"]),
    "a search with where": (
        "plan: search\nnum_trials: 2\naxes: {method.top_k: [1]}\nwhere: [method.top_k < 2]",
        ["where", "a search draws"],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_ablation_when_its_file_says_what_nobody_reads_then_it_is_refused(
    folder: Path, case: str
) -> None:
    lines, parts = FILES[case]
    head = "# @package _global_\n# Is it read?\ndefaults: [override /method: moe]\n"
    (folder / "ablation" / "own.yaml").write_text(f"{head}{lines}\n")
    message = refusal(folder, "ablation=own")
    assert [part for part in parts if part not in message] == [], message


def test_method_that_lacks_an_axis_of_the_file_then_it_is_named_and_no_axis_is_blamed(
    folder: Path,
) -> None:
    assert refusal(folder, RANKS, "method=multi") == (
        "method=multi: it has no method.lora_rank, method.num_experts, method.top_k, which "
        "ablation=ranks sweeps; methods that have: moe"
    )
    typed = refusal(folder, RANKS, "method=multi", "axes={method.lora_rank:[4]}")
    assert typed.startswith("axes.method.lora_rank (methods: multi): no such name")


def test_where_when_one_of_two_empties_the_grid_then_it_alone_is_blamed(folder: Path) -> None:
    where = "where=['method.top_k > 5','method.num_experts >= 1']"
    message = refusal(folder, RANKS, where)
    # 4 ranks x 2 x 2
    assert message.startswith("ablation=ranks: where leaves none of 16 cells: 'method.top_k > 5'")
    assert "num_experts" not in message
    assert message.endswith("where=[] takes them all")
    both = refusal(folder, RANKS, "where=['method.top_k > 1','method.top_k < 5']")
    assert "'method.top_k > 1' leaves out 8; 'method.top_k < 5' leaves out 8" in both


def test_search_when_ends_do_not_fit_each_other_then_the_plan_is_refused(folder: Path) -> None:
    axes = "axes={method.top_k:[1,5],method.num_experts:[1,10]}"
    assert "method.top_k=5" in refusal(folder, SEARCH, axes)
    fits = plan(folder, SEARCH, "axes={method.top_k:[1,5],method.num_experts:[5,10]}", "seeds=[0]")
    pairs = {(trial.method["top_k"], trial.method["num_experts"]) for trial in fits.knowable}
    assert pairs == {(1, 5), (1, 10), (5, 5), (5, 10)}
    # and what it runs again, with both seeds of it, on the other part
    assert [trial.seed for trial in fits.knowable if trial.dataset["part"] == "report"] == [0, 1]
