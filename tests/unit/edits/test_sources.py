"""Where records come from, what may be trained on, and trials on files with a local checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.file_trials import spec, write, zsre_line
from trainables.edits import embedded as world
from trainables.edits.sources import NUM_TRAINING_LOCALITY, Source, open_source, preview
from trainables.errors import ConfigError, DataError
from trainables.interfaces import EditRecord, Question
from trainables.methods import method_settings
from trainables.spec import TrialSpec
from trainables.trials.validation import Validator
from trainables.trials.workbench import Workbench

ROOT = Path(__file__).resolve().parents[3]


def test_training_locality_of_a_file_is_never_scored(tmp_path: Path) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(60)])
    source = open_source(TrialSpec.parse(spec(tmp_path, "zsre", path)), tmp_path)
    scored = {question.prompt for record in source.records for question in record.locality}
    assert source.training_locality  # books asked about in the tune part alone
    assert not scored & set(source.training_locality)
    read = {f"who wrote book {number}" for number in range(30)}
    assert set(source.training_locality) <= read


def test_to_edit_gives_every_edit_some_unrelated_prompts_of_its_own() -> None:
    prompts = tuple(f"unrelated {number}" for number in range(30))
    records = [EditRecord(f"r{n}", f"prompt {n}", "t") for n in range(2)]
    questions = tuple(Question(prompt, "a", "locality_far") for prompt in prompts)
    source = Source(tuple(records), (), questions, "d")
    first, second = (source.to_edit(record).training_locality for record in records)
    assert len(set(first)) == len(set(second)) == NUM_TRAINING_LOCALITY
    assert first != second
    assert source.to_edit(records[0]).training_locality == first
    short = Source(tuple(records), (), questions[:3], "d")
    assert set(short.to_edit(records[0]).training_locality) == set(prompts[:3])


def test_to_edit_refuses_a_prompt_that_is_scored() -> None:
    record = EditRecord("r", "p", "t", locality=(Question("asked", "a", "locality_far"),))
    with pytest.raises(ValueError, match="'asked' is scored"):
        Source((record,), (), record.locality, "d").to_edit(record)


def test_unknown_data_set_and_missing_path_are_named(tmp_path: Path) -> None:
    for of_the_kind in (open_source, lambda wanted, _: preview(wanted)):
        with pytest.raises(ConfigError, match=r"module is 'other'.* known: .*facts, .*zsre"):
            of_the_kind(TrialSpec.parse(spec(tmp_path, "other", None)), tmp_path)
    with pytest.raises(DataError, match=r"dataset.path is not set; dataset=wiki_counterfact"):
        open_source(TrialSpec.parse(spec(tmp_path, "wiki_counterfact", None)), tmp_path)


def test_a_variant_is_read_by_the_module_that_it_names(tmp_path: Path) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(30)])
    plain, wanted = spec(tmp_path, "zsre", path), spec(tmp_path, "mine", path)
    wanted["dataset"] |= {"module": "zsre", "target_field": "answers"}
    records = open_source(TrialSpec.parse(wanted), tmp_path).records
    assert [record.target_new for record in records] == [
        record.true_answer for record in open_source(TrialSpec.parse(plain), tmp_path).records
    ]
    lacking = wanted | {"dataset": wanted["dataset"] | {"target_field": "x"}}
    with pytest.raises(ConfigError, match=r"'x'; dataset=mine has alt or answers"):
        open_source(TrialSpec.parse(lacking), tmp_path)
    # the backbone that reads files of the module reads the variant's
    wanted["backbone"] |= {"name": "facts_zsre", "model": "embedded:facts_zsre"}
    assert preview(TrialSpec.parse(wanted)).records == records
    wanted["backbone"]["model"] = "embedded:facts"
    with pytest.raises(DataError, match=r"dataset=mine with backbone=facts: .* backbone=facts_zs"):
        preview(TrialSpec.parse(wanted))


@pytest.mark.parametrize(
    ("backbone", "dataset", "hint"),
    [
        ("facts_zsre", "wiki_counterfact", "use a real model"),
        ("facts", "zsre", "use backbone=facts_zsre or a real model"),
        ("facts_zsre", "counterfact", "use backbone=facts_counterfact or a real model"),
    ],
)
def test_an_embedded_backbone_takes_no_file_that_it_never_read(
    backbone: str, dataset: str, hint: str
) -> None:
    # with backbone.data_path it would be trained, and its lines taken for those of another file
    with pytest.raises(DataError, match=hint):
        world.check_source(backbone, dataset, dataset)


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"num_questions": 40, "answers_per_question": 3}, r"num_questions is 40; the data offers"),
        ({"num_questions": 2, "answers_per_question": 99}, r"answers_per_question is 99; the data"),
        ({"num_questions": 2, "answers_per_question": 1}, r"answers_per_question is 1; it must"),
    ],
)
def test_a_serial_stream_that_the_data_cannot_feed_is_refused_before_the_start(
    tmp_path: Path, checkpoints: dict[str, Path], protocol: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(40)])
    wanted = spec(checkpoints["llama"], "zsre", path, kind="serial", **protocol)
    with pytest.raises(ConfigError, match=message):
        Validator(tmp_path).validate(TrialSpec.parse(wanted))


def test_a_text_file_of_a_method_counts_by_its_content(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(40)])
    wanted = spec(checkpoints["llama"], "zsre", path)
    memit = yaml.safe_load((ROOT / "search_spaces" / "method" / "memit.yaml").read_text())
    text = tmp_path / "text.txt"
    own = {"name": "memit", "module": "memit", "covariance_text": str(text), "layers": [1]}
    wanted["method"] = method_settings(memit) | own
    found = []
    for content in ("One passage.", "Another passage.", "One passage."):
        text.write_text(content)
        found.append(Validator(tmp_path).validate(TrialSpec.parse(wanted))["dataset_digest"])
    assert found[0] == found[2] != found[1]
    plain = Validator(tmp_path).validate(
        TrialSpec.parse(wanted | {"method": {"name": "x", "module": "no_edit"}})
    )
    assert plain["dataset_digest"] not in found


def test_serial_trial_on_a_file_tells_what_its_answers_are(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(40)])
    counts = {"num_questions": 4, "answers_per_question": 3, "num_edits": 12}
    wanted = spec(checkpoints["llama"], "zsre", path, kind="serial", **counts)
    bench = Workbench(tmp_path / "cache")
    row = bench.loop(TrialSpec.parse(wanted)).run()
    bench.check_restored()
    assert row["edits_seen"] == 12
    assert row["count.answers_topped_up"] == 0  # all ask "Where was ... born?"
    assert row["locality_far.token.final"] == 1.0  # nothing was edited
    assert 0.0 <= row["stale_rate"] <= 1.0


def test_passages_of_a_file_are_scored_by_perplexity_and_locality(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    lines = [
        {
            "prompt": f"On person {number}.",
            "target_new": f"Born in Orm {number}.",
            "subject": f"person {number}",
            "locality_prompt": "A map of",
            "locality_ground_truth": "the north",
        }
        for number in range(12)
    ]
    path = write(tmp_path / "h.jsonl", lines)
    bench = Workbench(tmp_path / "cache")
    row = bench.loop(TrialSpec.parse(spec(checkpoints["llama"], "hallucination", path))).run()
    assert row["perplexity.mean.final"] == pytest.approx(row["perplexity.mean.before"])
    assert row["perplexity.median.final"] > 1.0
    assert row["locality_far.token.final"] == 1.0
    assert "generality.token.final" not in row  # passages have no rephrase
