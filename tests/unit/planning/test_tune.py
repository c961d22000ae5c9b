"""What `plan: tune` searches: for each method what its own file names."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.distributions import Distribution
from orchestrator.planning.papers.presets import fields_of
from orchestrator.planning.plan import Plan, arm_label, expand, spec_for
from orchestrator.settings import loading as config
from orchestrator.settings.yaml_files import SearchSpaces
from tests.unit.small_spaces import write_small_spaces

MOE = """
tune:
  edit_lr: {distribution: loguniform, low: 1e-4, high: 1e-2}
  edit_layer: {distribution: int, low: 4, high: 31}
  num_steps: [25]
"""
MULTI = "{name: multi, module: other, published_on: big, layers: [4, 5], clamp: 4.0, "
MULTI += "tune: {layers: [[0, 1], [4, 5], [4, 6]], clamp: [1.0, 4.0]}}"
TUNE = """\
# @package _global_
# What suits each?
plan: tune
presets: published
dataset: {part: tune}
axes: {method: [moe, multi]}
protocol: {num_edits: 8}
seeds: [0, 1]
num_trials: 5
rerun: {best: 1, part: report, seeds: [0, 1, 2], untuned: true}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_small_spaces(tmp_path / "search_spaces")
    moe = made / "method/moe.yaml"
    moe.write_text(moe.read_text() + MOE)
    (made / "method/multi.yaml").write_text(MULTI)
    (made / "ablation/tuning.yaml").write_text(TUNE)
    tiny = made / "backbone/tiny.yaml"
    tiny.write_text(tiny.read_text().rstrip().rstrip("}") + ", presets: {moe: {top_k: 1}}}")
    return made


def plan(folder: Path, *typed: str) -> Plan:
    return expand(config.load(["ablation=tuning", *typed], folder))


def test_each_method_has_a_search_of_its_own_in_the_backbones_units(folder: Path) -> None:
    made = plan(folder)
    moe, multi = made.searches
    assert (moe.fixed, multi.fixed) == ({"method": "moe"}, {"method": "multi"})
    assert moe.distributions == {
        "method.edit_lr": Distribution("loguniform", 1e-4, 1e-2, digits=2),
        "method.edit_layer": Distribution("int", 2, 15, digits=2),  # 4 and 31 of 32, of 16 layers
        "method.num_steps": Distribution("categorical", choices=(25,), digits=2),
    }
    # 0, 1 -> 0, 1 (halves up); 4, 5 -> 2, 3; 4, 6 -> 2, 3: one choice fewer
    assert multi.distributions["method.layers"].choices == ([0, 1], [2, 3])
    # each: 5 draws and the untuned one for two seeds, then the best and the untuned one for three
    assert made.num_trials == 2 * (6 * 2 + 2 * 3) == len(made.typical)
    assert [spec.method["name"] for spec in made.middles] == ["moe", "multi"]
    assert {spec.dataset["part"] for spec in made.knowable} == {"tune", "report"}


def test_what_no_draw_makes_competes_with_what_is_drawn(folder: Path) -> None:
    moe, multi = plan(folder, "start_at=presets").searches
    # top_k, which the backbone's file sets, is not drawn; for multi it says nothing.
    assert moe.rivals == ({"method": "moe"}, {"method": "moe", "method.top_k": 1})
    assert multi.rivals == ({"method": "multi"},)
    moe, _ = plan(folder, "start_at=presets", "rerun.untuned=false", "method.top_k=1").searches
    assert moe.rivals == ()  # what is typed is not chosen anew


def test_a_draw_is_an_arm_of_its_method(folder: Path) -> None:
    loaded = plan(folder).config
    values = {"method": "multi", "method.layers": [2, 3], "method.clamp": 1.0}
    spec = spec_for(loaded, values, 1)
    assert (spec.arm, spec.swept, spec.seed) == ("multi layers=2-3 clamp=1", values, 1)
    assert (spec.method["layers"], spec.dataset["part"]) == ([2, 3], "tune")
    untuned = spec_for(loaded, {"method": "multi"}, 1, "report")
    assert (untuned.arm, untuned.method["clamp"]) == ("multi", 4.0)
    assert (untuned.dataset["part"], untuned.swept) == ("report", {"method": "multi"})


def test_the_name_of_an_arm_is_one_line_whatever_its_settings_hold() -> None:
    values = {"method": "retrieval", "method.template": "{prompt} {target}.\nPrompt:"}
    assert arm_label(values) == r"retrieval template={prompt} {target}.\nPrompt:"


def test_what_is_typed_is_not_searched(folder: Path) -> None:
    made = plan(folder, "method=moe", "method.edit_layer=3", "method.moe.num_steps=9")
    (moe,) = made.searches
    assert [*moe.distributions] == ["method.edit_lr"]
    assert [made.middles[0].method[key] for key in ("edit_layer", "num_steps")] == [3, 9]
    typed = "axes.method.edit_lr={distribution:uniform,low:1,high:2}"
    moe, multi = plan(folder, typed).searches
    assert moe.distributions["method.edit_lr"].kind == "uniform"
    assert "method.edit_lr" not in multi.distributions


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["axes.method=[moe,none]"], "method=none: its file names nothing under tune"),
        (["axes.method=null"], r"needs axes.method=\[NAME"),
        (["method=multi", "method.layers=[1]", "method.clamp=2.0"], "multi: all that its search"),
        (["num_trials=null"], "num_trials is missing: a plan of kind tune"),
        (['where=["method.clamp < 2"]'], "a search draws every combination"),
        (["axes.method=[moe,mooe]"], "did you mean 'moe'"),
    ],
)
def test_a_search_that_cannot_be_is_refused(folder: Path, typed: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        plan(folder, *typed)


def test_a_file_that_names_what_its_method_lacks_is_refused(folder: Path) -> None:
    path = folder / "method/multi.yaml"
    path.write_text(path.read_text().replace("clamp: [", "clmp: ["))
    with pytest.raises(UsageError, match=r"method multi: tune\.clmp.*did you mean 'clamp'"):
        plan(folder)
    path.write_text(path.read_text().replace("tune: {", "tune: {name: 3, "))
    with pytest.raises(UsageError, match=r"method/multi\.yaml: tune\.name"):
        plan(folder)


def test_published_presets_alone_hold_where_they_are_asked_for(folder: Path) -> None:
    """What was pasted into a backbone's file decides nothing of a search for it."""
    typed = ["ablation=ranks", "seeds=[0]", "axes={method.lora_rank:[16]}"]
    (own,) = expand(config.load(typed, folder)).trials
    assert own.origins["method.top_k"].source == "preset tiny"
    made = expand(config.load([*typed, "presets=published"], folder))
    assert made.trials[0].origins["method.top_k"].source == "method moe"
    assert made.trials[0].origins["method.num_steps"].source == "preset tiny/lemoe"
    assert made.notes == ()  # nothing is missed where nothing was wanted


def test_a_search_starts_at_what_was_chosen_before_as_far_as_it_is_drawn(
    folder: Path, tmp_path: Path
) -> None:
    tiny = folder / "backbone/tiny.yaml"
    chosen = "presets: {moe: {top_k: 1, edit_lr: 0.005, num_steps: 50}, multi: {layers: [2, 3]}}"
    tiny.write_text(tiny.read_text().replace("presets: {moe: {top_k: 1}}", chosen))
    # top_k is not drawn, and of 50 steps no draw means any
    assert [each.start for each in plan(folder).searches] == [{}, {}]
    moe, multi = plan(folder, "start_at=presets").searches
    assert moe.start == {"method.edit_lr": 0.005}
    assert multi.start == {"method.layers": [2, 3]}
    mine = tmp_path / "mine.yaml"
    mine.write_text("moe: {edit_lr: 0.5}\nmulti: {clamp: 4.0}\n")
    moe, multi = plan(folder, "start_at=presets", f"presets={mine}").searches
    assert moe.start == {}  # above the highest rate that is drawn
    assert multi.start == {"method.layers": [2, 3], "method.clamp": 4.0}


@pytest.mark.parametrize(
    ("distribution", "value", "draw"),
    [
        (Distribution("categorical", choices=([0], [1, 2])), [1, 2], 1),
        (Distribution("categorical", choices=([0], [1, 2])), [1], None),
        (Distribution("loguniform", 1e-4, 1.0, digits=2), 0.0031, 0.0031),
        (Distribution("uniform", 0.0, 1.0), 1, 1),
        (Distribution("uniform", 0.0, 1.0), 1.5, None),
        (Distribution("int", 0, 9), 9, 9),
        (Distribution("int", 0, 9), 3.5, None),
        (Distribution("int", 0, 1), True, None),
        (Distribution("int", 0, 9), None, None),
    ],
)
def test_a_value_is_drawn_or_it_is_not(
    distribution: Distribution, value: object, draw: object
) -> None:
    assert distribution.draw(value) == draw


@pytest.mark.parametrize(
    ("distribution", "drawn", "value"),
    [
        (Distribution("categorical", choices=([0], [1, 2])), 1, [1, 2]),
        (Distribution("loguniform", 1e-4, 1.0, digits=2), 0.0031287, 0.0031),
        (Distribution("loguniform", 1e-4, 1.0), 0.0031287, 0.0031287),
        (Distribution("int", 0, 200, digits=2), 123, 123),
    ],
)
def test_a_draw_means_a_choice_or_a_number_that_can_be_written_down(
    distribution: Distribution, drawn: object, value: object
) -> None:
    assert distribution.value(drawn) == value


def test_every_method_that_edits_can_be_tuned() -> None:
    spaces = SearchSpaces()
    files = {name: spaces.load("method", name) for name in spaces.names("method")}
    assert {name for name, file in files.items() if not file.get("tune")} == {"no_edit"}
    made = expand(config.load(["ablation=presets"]))
    found = {each.fixed["method"] for each in made.searches}
    # memit_mass is memit's in one batch; three train for days, or on more than there is
    trained_ahead = {"mend", "malmen", "serac"}
    assert found == files.keys() - {"no_edit", "memit_mass"} - trained_ahead
    named = ",".join(sorted(trained_ahead))
    alone = ["ablation=presets", f"axes.method=[{named}]", "rerun.untuned=false"]
    for each in (*made.searches, *expand(config.load(alone)).searches):
        fields = {f"method.{key}" for key in fields_of(files[str(each.fixed["method"])])}
        assert each.distributions.keys() <= fields
        searched = sum(len(found.choices) != 1 for found in each.distributions.values())
        assert searched >= (1 if each.fixed["method"] == "retrieval" else 2)  # it has one setting
