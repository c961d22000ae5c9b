from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.plan import expand
from orchestrator.settings import loading as config
from orchestrator.settings.composition import compose
from orchestrator.settings.models import PARTS
from orchestrator.settings.yaml_files import FOLDER, GROUPS, SearchSpaces
from tests.unit.small_spaces import write_small_spaces


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_spaces(tmp_path / "search_spaces")


def test_load_when_ablation_and_scale_set_a_key_then_ablation_wins(folder: Path) -> None:
    assert config.load(["ablation=methods"], folder).seeds == (0, 1)  # scale/quick.yaml
    paper = config.load(["ablation=ranks", "scale=paper"], folder)
    assert paper.seeds == (0,)  # the ablation's own block for that scale
    assert paper.scheduler.name == "asha"
    assert paper.scheduler.grace == 0.5  # of scheduler/asha.yaml
    assert paper.axes["method.lora_rank"] == [2048]
    assert paper.axes["method.num_experts"] == [1, 10]  # kept from the ablation
    assert (
        config.load(["ablation=ranks", "scale=paper", "scheduler=fifo"], folder).scheduler.name
        == "fifo"
    )


def test_load_when_a_value_is_typed_then_it_wins_over_everything(folder: Path) -> None:
    typed = ["ablation=ranks", "scale=paper", "seeds=[7]", "protocol.num_edits=5", "store=/a b/c"]
    loaded = config.load(typed, folder)
    assert (loaded.seeds, loaded.protocol.num_edits, loaded.store) == ((7,), 5, "/a b/c")
    assert loaded.question == "From which rank on?"


def test_load_when_a_swept_key_is_typed_then_its_axis_is_that_value(folder: Path) -> None:
    loaded = config.load(["ablation=ranks", "method.lora_rank=8"], folder)
    assert loaded.axes["method.lora_rank"] == [8]
    assert loaded.own_units == {"method.lora_rank"}
    assert config.load(["ablation=methods", "method=moe"], folder).axes == {"method": ["moe"]}


def test_load_when_axes_are_typed_then_they_replace_add_or_drop(folder: Path) -> None:
    whole = config.load(["ablation=ranks", "axes={method.lora_rank:[4,8]}"], folder)
    assert whole.axes == {"method.lora_rank": [4, 8]}
    one = config.load(
        ["ablation=ranks", "axes.method.top_k=null", "axes.method.lora_rank=[4]"], folder
    )
    assert one.axes == {"method.lora_rank": [4], "method.num_experts": [1, 10]}


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ([], ["ablation=NAME", "ranks"]),
        (["ablation=rank"], ["ablation=rank", "did you mean 'ranks'", "methods"]),
        (["ablation=ranks", "method=mo"], ["method=mo", "did you mean 'moe'"]),
        (["ablation=ranks", "sedes=[1]"], ["sedes", "did you mean 'seeds'"]),
        (
            ["ablation=ranks", "protocol.num_edit=3"],
            ["protocol.num_edit", "'num_edits'", "num_batches"],
        ),
        (
            ["ablation=ranks", "protocol.kind=cyclic"],
            ["protocol.kind=cyclic", "'single', 'batch', 'lifelong' or 'serial'"],
        ),
        (
            ["ablation=ranks", "protocol.num_edits=0"],
            ["protocol.num_edits=0", "greater than or equal to 1"],
        ),
        (["ablation=ranks", "protocol.order=sorted"], ["protocol.order=sorted", "'kmeans_filled'"]),
        (["ablation=ranks", "workers=two"], ["workers=two", "integer"]),
        (["ablation=ranks", "seeds=3"], ["seeds=3", "list"]),
        (["ablation=ranks", "seeds=[1,1]"], ["seeds=[1, 1]", "only once"]),
        (["ablation=ranks", "seeds=0,1"], ["seeds=0,1", "seeds=[...]"]),
        (["ablation=ranks", "scheduler.grace=2"], ["scheduler.grace=2", "less than or equal to 1"]),
        (["ablation=ranks", "axes.method.top_k=4"], ["axes.method.top_k=4", "list"]),
        (["ablation=ranks", "store=a=b"], ["store=a=b", "quote"]),
        (["ablation=ranks", "store.folder=a"], ["store.folder", "single value"]),
        (["ablation=ranks", "choices=4"], ["choices=4", "no such name"]),
        (["ablation=ranks", "arms={a:{}}"], ["arms", "cannot be set"]),
        (["ablation=ranks", "hello"], ["'hello'", "key=value"]),
        (["ablation=ranks", "+seeds=[1]", "~store"], ["~store"]),
    ],
)
def test_load_when_something_is_wrong_then_one_line_names_it(
    folder: Path, typed: list[str], parts: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        config.load(typed, folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("ablation/ranks.yaml", "# a question\n# @package _global_\naxes: {}\n", "line 1"),
        ("config.yaml", "defaults: [{method: moe}, _self_]\n", "_self_ must come first"),
        ("method/moe.yaml", "name: [unclosed\n", "not readable as YAML"),
        ("method/moe.yaml", "- a list\n", "must hold a mapping"),
    ],
)
def test_load_when_a_file_is_broken_then_it_is_named(
    folder: Path, name: str, text: str, part: str
) -> None:
    (folder / name).write_text(text)
    with pytest.raises(UsageError, match=part):
        expand(config.load(["ablation=ranks"], folder))


@pytest.mark.parametrize(
    ("group", "line", "part"),
    [
        (
            "method",
            "name: other",
            r"method/own\.yaml: name=other: must be own, as the file is called",
        ),
        ("dataset", "module: 5", r"dataset/own\.yaml: module=5: must be a word"),
        ("dataset", "source: net", r"dataset/own\.yaml: source=net: .*'file'"),
        ("dataset", "keep_unchanged: 5", r"keep_unchanged=5: must be true or false"),
        (
            "dataset",
            "cost: {token_per_row: 3}",
            r"own\.yaml: cost\.token_per_row: .*tokens_per_row",
        ),
        ("dataset", "cost: {records: abc}", r"own\.yaml: cost\.records=abc: .*number"),
        ("method", "cost: {grows: 3}", r"own\.yaml: cost\.grows=3: must be true or false"),
        ("method", "order: foo", r"own\.yaml: order=foo: .*'hierarchical'"),
        ("method", "published_on: nope", r"own\.yaml: published_on: nope: no such name"),
        ("method", "presets: {fatcs: {}}", r"own\.yaml: presets: fatcs: no such name"),
        ("method", "presets: {bb: {x: 5}}", r"own\.yaml: presets\.bb\.x=5: must be a mapping"),
        ("method", "cost: 5", r"method/own\.yaml: cost=5: must be a mapping"),
        ("method", "presets: [1]", r"method/own\.yaml: presets=\[1\]: must be a mapping"),
        ("backbone", "1: 2", r"backbone/own\.yaml: 1: a key must be a word"),
    ],
)
def test_load_when_the_head_of_a_file_is_broken_then_file_and_key_are_named(
    folder: Path, group: str, line: str, part: str
) -> None:
    (folder / group / "own.yaml").write_text(f"{line}\n")
    with pytest.raises(UsageError, match=part):
        expand(config.load(["ablation=ranks", f"{group}=own"], folder))


def test_load_when_a_number_has_hundreds_of_digits_then_it_is_refused_in_short(
    folder: Path,
) -> None:
    with pytest.raises(UsageError, match=r"^method\.\w+=1{200}\.\.\.: must be") as caught:
        expand(config.load(["ablation=ranks", f"method.num_steps={'1' * 400}"], folder))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("layers: []", "layers: no such name"),
        ("own_units: [a]", "own_units: no such name"),
        ("sedes: [1]", "did you mean 'seeds'"),
        ("1: 2", "1: a key must be a word"),
    ],
)
def test_load_when_a_scale_sets_what_is_no_key_then_it_is_named(
    folder: Path, line: str, part: str
) -> None:
    (folder / "scale/quick.yaml").write_text(f"# @package _global_\n{line}\n")
    with pytest.raises(UsageError, match=part):
        config.load(["ablation=ranks"], folder)


def test_yaml_when_a_float_has_no_dot_then_it_is_a_number(folder: Path) -> None:
    (folder / "method/none.yaml").write_text("{name: none, edit_lr: 1e-4, other: 1.5e+3}")
    loaded = SearchSpaces(folder).load("method", "none")
    assert (loaded["edit_lr"], loaded["other"]) == (1e-4, 1500.0)


@pytest.mark.parametrize("scale", SearchSpaces().names("scale"))
@pytest.mark.parametrize("ablation", SearchSpaces().names("ablation"))
def test_compose_when_compared_with_hydra_then_it_gives_the_same(ablation: str, scale: str) -> None:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    spaces = SearchSpaces()
    chosen = {"ablation": ablation, "scale": scale}
    ours, choices = compose(spaces, chosen)
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        typed = [f"{group}={name}" for group, name in chosen.items()]
        theirs = hydra_compose("config", typed, return_hydra_config=True)
        made = theirs.hydra.runtime.choices
        keys = [str(key) for key in theirs if key != "hydra"]
        plain = OmegaConf.to_container(OmegaConf.masked_copy(theirs, keys), resolve=True)
    assert choices == {group: made[group] for group in GROUPS}
    for part in PARTS:  # hydra knows nothing of a file's base, nor of its presets
        own, theirs_own = ours.pop(part), plain.pop(part)
        lines = theirs_own.keys() - {"base", "presets", "presets_from"}
        assert {key: own[key] for key in lines} == {key: theirs_own[key] for key in lines}
    assert ours == plain


def test_import_when_planning_then_neither_torch_nor_ray_nor_mlflow_is_loaded() -> None:
    code = (
        "import sys, orchestrator.terminal.listing, orchestrator.terminal.plan_tables\n"
        "import orchestrator.store.ledger\n"
        "print([name for name in ('torch', 'ray', 'mlflow') if name in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"


def test_mlflow_when_a_server_is_named_then_its_address_without_a_slash() -> None:
    assert config.load(["ablation=smoke"]).mlflow is None
    assert (
        config.load(["ablation=smoke", "mlflow=http://10.0.0.1:5000/"]).mlflow
        == "http://10.0.0.1:5000"
    )


@pytest.mark.parametrize("address", ["ftp://host", "host:5000", "sqlite:///x.db", "http://"])
def test_mlflow_when_it_is_no_server_then_says_what_it_must_be(address: str) -> None:
    with pytest.raises(UsageError, match=r"mlflow=.*: must be an MLflow server's address, http://"):
        config.load(["ablation=smoke", f"mlflow={address}"])


def test_mlflow_when_the_address_holds_a_password_then_it_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_PASSWORD") as raised:
        config.load(["ablation=smoke", 'mlflow="http://me:a@b:c@host:5000"'])
    assert "mlflow=http://***@host:5000" in str(raised.value)
