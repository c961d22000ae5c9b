"""The tasks that have a file, and what is refused of those that are named."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from orchestrator.planning.ability import asked
from orchestrator.settings.loading import load
from trainables.ability import definitions
from trainables.ability.definitions import check, defined, digest, documents, files_of
from trainables.ability.scoring import SCORES, tagged_entities
from trainables.bases import FOLDER
from trainables.errors import ConfigError, DataError
from trainables.metrics.evaluator import MEASURES
from trainables.spec import BackboneSpec, EvaluateSpec

FACTS = BackboneSpec("facts", "embedded:facts", "float32")
ZSRE = BackboneSpec("facts_zsre", "embedded:facts_zsre", "float32")
REAL = BackboneSpec("smollm2_135m", "packaged:smollm2_135m", "float32")
HAS_HARNESS = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not HAS_HARNESS, reason="needs the extra `ability`")
ROWS = [{"sentence": "a fine film", "label": 1}, {"sentence": "a dull one", "label": 0}]


def sst2(folder: Path, rows: list[dict[str, object]] | None = None, name: str = "x") -> Path:
    path = folder / f"sst2_{name}.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows))
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", defined())
def test_every_file_of_a_task_says_what_is_needed(name: str) -> None:
    known = defined()[name]
    cost = yaml.safe_load((FOLDER / "ability" / f"{name}.yaml").read_text())["cost"]
    assert set(cost) == {"questions", "tokens", "generated"}
    assert cost["questions"] > 0
    assert known.scoring is None or known.scoring in SCORES
    if known.reads == "world":
        assert not known.files
        return
    assert "test" in known.files
    assert known.fields
    generates = known.task["output_type"] == "generate_until"
    assert generates == (known.scoring is not None) == (cost["generated"] > 0)
    assert name not in MEASURES


@pytest.mark.parametrize(
    ("backbone", "task", "said"),
    [
        (REAL, "world_text", "backbone=smollm2_135m has not read the made-up world; it is for"),
        (ZSRE, "reserved_facts", "backbone=facts_zsre has not read the made-up world"),
        (FACTS, "boolq", "knows no task; for it there are reserved_facts, world_text"),
        (FACTS, "nothing_at_all", "knows no task"),
    ],
)
def test_check_when_a_task_does_not_suit_the_backbone(
    backbone: BackboneSpec, task: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=f"evaluate.ability={task}: .*{said}"):
        check(EvaluateSpec((task,)), backbone)


def test_check_when_the_extra_is_not_installed_then_the_error_says_how(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(definitions, "_HARNESS", "lm_eval_that_nobody_has")
    with pytest.raises(ConfigError, match=r"evaluate.ability=boolq: needs .*\[ability\]"):
        check(EvaluateSpec(("boolq",)), REAL)
    check(EvaluateSpec(("world_text", "reserved_facts")), FACTS)  # need none


@needs_harness
def test_check_when_a_task_is_unknown_then_the_nearest_is_named() -> None:
    with pytest.raises(ConfigError, match=r"boolk: no such task; did you mean 'boolq'\? known: "):
        check(EvaluateSpec(("boolk",)), REAL)
    check(EvaluateSpec(("hellaswag", "mmlu_anatomy", "mmlu")), REAL)


@needs_harness
def test_check_reads_the_files_that_it_finds(tmp_path: Path) -> None:
    wanted = EvaluateSpec(("sst2",), path=str(tmp_path))
    with pytest.raises(DataError, match=r"reads one file named sst2\*; there is none"):
        check(wanted, REAL)
    path = sst2(tmp_path)
    check(wanted, REAL)
    check(replace(wanted, path=[str(path)]), REAL)
    sst2(tmp_path, ROWS[:1], "y")
    with pytest.raises(DataError, match=r"there is sst2_x.jsonl, sst2_y.jsonl"):
        check(wanted, REAL)


def test_files_when_no_path_is_set_or_it_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluate.path is not set; evaluate.ability=gsm8k"):
        files_of(defined()["gsm8k"], EvaluateSpec(("gsm8k",)))
    absent = EvaluateSpec(("gsm8k",), path=str(tmp_path / "no"))
    with pytest.raises(DataError, match="no such file or folder"):
        files_of(defined()["gsm8k"], absent)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"sentence": "fine"}\n',
            "line 1: label is missing; evaluate.ability=sst2 reads sentence",
        ),
        ('{"sentence": "fine", "label": 1}\n[1]\n', "line 2: sentence is missing"),
        ('{"sentence": "fine", "label": "1"}\n', 'label is "1"; .* and label is 0 or 1'),
        ('{"sentence": "fine", "label": true}\n', "label is true; .* and label is 0 or 1"),
        ('{"sentence": ["fine"], "label": 1}\n', "sentence is .*; .* and sentence is text"),
        ("{", "not valid JSON"),
        ("", "empty"),
        ("\n", "holds no record"),
    ],
)
def test_documents_when_a_file_is_broken_then_file_and_line_are_named(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "sst2.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=f"evaluate.path.*sst2.jsonl.*{said}"):
        documents(defined()["sst2"], path)


COLUMNS = (
    "-DOCSTART- -X- O O\n\n"
    "BAR NNP I-NP I-LOC\r\n3 CD I-NP O\r\n\r\n\r\n"  # a blank line may be one of Windows
    "Ada NNP I-NP I-PER\nQuell NNP I-NP I-PER\nEld NNP I-NP B-PER\n"  # the last without one
)
SENTENCES = [
    {"tokens": ["BAR", "3"], "ner_tags": ["I-LOC", "O"]},
    {"tokens": ["Ada", "Quell", "Eld"], "ner_tags": ["I-PER", "I-PER", "B-PER"]},
]


@pytest.mark.parametrize("name", ["eng.testb", "conll03_test.txt", "conll03.jsonl"])
def test_documents_of_conll03_are_the_same_in_columns_and_in_json(
    tmp_path: Path, name: str
) -> None:
    known = defined()["conll03"]
    is_json = name.endswith("jsonl")
    text = "\n".join(map(json.dumps, SENTENCES)) if is_json else COLUMNS
    (tmp_path / name).write_text(text, newline="")
    (path,) = files_of(known, EvaluateSpec(("conll03",), path=str(tmp_path))).values()
    assert documents(known, path) == SENTENCES
    tags = [tagged_entities(each["tokens"], each["ner_tags"]) for each in SENTENCES]
    assert tags == [[("BAR", "LOC")], [("Ada Quell", "PER"), ("Eld", "PER")]]


def test_documents_of_conll03_when_the_last_column_is_no_tag_then_file_and_line_are_named(
    tmp_path: Path,
) -> None:
    (tmp_path / "conll03.txt").write_text("\nAda B-PER 0\nruns O 0\n")
    with pytest.raises(DataError, match=r'conll03.txt, line 2: ner_tags is .*"0".* is tags'):
        documents(defined()["conll03"], tmp_path / "conll03.txt")


def test_files_when_a_task_knows_two_names_then_one_file_must_bear_either(tmp_path: Path) -> None:
    wanted = EvaluateSpec(("conll03",), path=str(tmp_path))
    with pytest.raises(DataError, match=r"one file named conll03\* or eng.testb; there is none"):
        files_of(defined()["conll03"], wanted)
    for name in ("eng.testb", "conll03.txt"):
        (tmp_path / name).write_text(COLUMNS)
    with pytest.raises(DataError, match=r"there is conll03\.txt, eng\.testb"):
        files_of(defined()["conll03"], wanted)


@needs_harness
def test_prompt_of_samsum_has_no_returns_and_ends_where_a_summary_goes_on(tmp_path: Path) -> None:
    from trainables.ability.harness import tasks_of

    chat = {"dialogue": "Ada: Tea?\r\nBen: Yes!", "summary": "Ben wants tea."}
    (tmp_path / "samsum_test.json").write_text(json.dumps([{"id": "1", **chat}]))
    (task,) = tasks_of("samsum", EvaluateSpec(("samsum",), path=str(tmp_path))).values()
    prompt = task.fewshot_context(chat, 0)
    assert prompt.endswith("Dialogue:\nAda: Tea?\nBen: Yes!\n\nSummary:")
    assert prompt.count("\n\nSummary:") == 2  # an example's, in the same form


@needs_harness
def test_digest_moves_with_the_content_and_not_with_the_place(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    sst2(folders[0])
    sst2(folders[1], name="elsewhere")
    sst2(folders[2], ROWS[:1])
    first, same, other = (digest(EvaluateSpec(("sst2",), path=str(folder))) for folder in folders)
    assert first == same != other
    assert digest(EvaluateSpec(("sst2",), 1, path=str(folders[0]))) != first


def test_digest_is_empty_where_nothing_is_asked_and_the_same_in_any_order() -> None:
    assert digest(EvaluateSpec()) == ""
    one, other = (("world_text", "reserved_facts"), ("reserved_facts", "world_text"))
    assert digest(EvaluateSpec(one)) == digest(EvaluateSpec(other)) != digest(EvaluateSpec(one, 9))


def test_a_plan_counts_what_the_tasks_ask(tmp_path: Path) -> None:
    words = ["ablation=smoke", "evaluate.ability=[boolq,gsm8k]", f"evaluate.path={tmp_path}"]
    part, cost = asked(load([*words, "evaluate.questions=50"]))
    assert part == {"ability": ["boolq", "gsm8k"], "questions": 50, "path": str(tmp_path)}
    files = {
        n: yaml.safe_load((FOLDER / "ability" / f"{n}.yaml").read_text()) for n in part["ability"]
    }
    costs = [file["cost"] for file in files.values()]
    assert cost["ability"]["read"] == 50 * sum(each["tokens"] for each in costs)
    assert cost["ability"]["generated"] == 50 * costs[1]["generated"]
    assert asked(load(["ablation=smoke"])) == ({}, {})
