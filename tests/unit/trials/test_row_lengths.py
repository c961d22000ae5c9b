"""What a backbone has no positions for is refused by the ids of the records."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import save_tiny
from tests.unit.file_trials import spec, write, zsre_line
from trainables.artefacts import Artefacts
from trainables.backbones.forward.split import Split
from trainables.backbones.loading import load_backbone
from trainables.errors import BackboneError, DataError
from trainables.metrics.generation import VERSION
from trainables.prompts import collate, tokenise
from trainables.spec import TrialSpec
from trainables.trials.validation import Validator
from trainables.trials.workbench import Workbench


def records_of(folder: Path, **changes: Any) -> Path:
    """Forty records, of which every other has `changes`."""
    lines = [zsre_line(n) | (changes if n % 2 else {}) for n in range(40)]
    return write(folder / "z.jsonl", lines)


@pytest.mark.parametrize("key", ["alt", "loc", "rephrase"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_record_that_is_surely_too_long_is_refused_before_the_start(
    tmp_path: Path, checkpoints: dict[str, Path], family: str, key: str
) -> None:
    path = records_of(tmp_path, **{key: "Zebra " * 20})
    wanted = spec(checkpoints[family], "zsre", path, num_edits=10)
    message = r"dataset=zsre: .* 64 positions of backbone=tiny in \S+ \(\d+ tokens\)"
    with pytest.raises(DataError, match=message):
        Validator(tmp_path).validate(TrialSpec.parse(wanted))


def test_a_record_that_is_too_long_by_its_end_token_is_refused_by_the_trial(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    backbone = load_backbone(checkpoints["llama"])
    bare = len(tokenise(backbone.tokenizer, "Where was person 10 born?", "7").ids)
    short = {"rephrase": "Where?", "loc": "nq question: who wrote it", "loc_ans": "Ada"}
    alt = "7" * (64 - bare + 1)  # this tokenizer knows no number: 64 tokens with the prompt
    lines = [zsre_line(n) | short | {"alt": alt} for n in range(10, 50)]
    path = write(tmp_path / "z.jsonl", lines)
    wanted = spec(checkpoints["llama"], "zsre", path, num_edits=10)
    wanted["protocol"]["target_ends_with_eos"] = False
    Validator(tmp_path).validate(TrialSpec.parse(wanted))
    first = Workbench(tmp_path / "cache").loop(TrialSpec.parse(wanted)).records[0].record_id
    wanted["protocol"]["target_ends_with_eos"] = True
    with pytest.raises(DataError, match=rf"in {first} \(65 tokens\)"):
        Workbench(tmp_path / "cache").loop(TrialSpec.parse(wanted))


def test_a_family_without_positions_takes_rows_of_any_length(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    path = records_of(tmp_path, alt="Zebra " * 20)
    wanted = spec(checkpoints["bloom"], "zsre", path, num_edits=10)
    Validator(tmp_path).validate(TrialSpec.parse(wanted))
    assert Workbench(tmp_path / "cache").loop(TrialSpec.parse(wanted)).num_batches == 10


def test_many_records_too_long_are_counted_beside_the_first_five(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    lines = [zsre_line(n) | {"alt": "Zebra " * 20} for n in range(40)]
    wanted = spec(checkpoints["llama"], "zsre", write(tmp_path / "z.jsonl", lines), num_edits=7)
    with pytest.raises(DataError, match=r"and 2 more; shorten or leave out") as error:
        Validator(tmp_path).validate(TrialSpec.parse(wanted))
    assert str(error.value).count(" tokens)") == 5


def test_split_when_a_method_makes_a_row_too_long_then_it_says_so(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    backbone = load_backbone(checkpoints["gpt2"])
    batch = collate([tokenise(backbone.tokenizer, "7" * 80, "Bar")], pad_id=0)
    with pytest.raises(BackboneError, match=r"row of \d+ tokens is longer than the 64 positions"):
        Split(backbone, 2, Artefacts(tmp_path).prefix_cache).logits(batch)


def generation(folder: Path, path: Path, **protocol: Any) -> int | None:
    wanted = spec(folder, "zsre", path, **protocol)
    found: int | None = Validator(folder.parent).validate(TrialSpec.parse(wanted))[
        "generation_version"
    ]
    return found


def test_generation_version_is_identity_where_something_is_generated_alone(tmp_path: Path) -> None:
    folder = save_tiny("bloom", tmp_path / "model")
    records = write(tmp_path / "z.jsonl", [zsre_line(n) for n in range(40)])
    assert generation(folder, records) is None
    assert generation(folder, records, generate=True) == VERSION


def test_pristine_generations_are_kept_by_their_length(tmp_path: Path) -> None:
    folder = save_tiny("bloom", tmp_path / "model")
    path = write(tmp_path / "z.jsonl", [zsre_line(n) for n in range(40)])
    row = (
        Workbench(tmp_path / "cache")
        .loop(TrialSpec.parse(spec(folder, "zsre", path, generate=True)))
        .run()
    )
    assert row["generation_limit"] == 32
    assert row["count.blank_first_tokens"] == 3  # "Town": this tokenizer knows no such word
    assert row["count.joins_retokenised"] == 0
    assert 0 <= row["reliability.token_no_blank.final"] <= 1
    longer = records_of(tmp_path, alt="7" * 40)
    row = (
        Workbench(tmp_path / "cache")
        .loop(TrialSpec.parse(spec(folder, "zsre", longer, generate=True)))
        .run()
    )
    assert row["generation_limit"] > 32
