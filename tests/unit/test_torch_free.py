"""What reads data starts in a fraction of a second: the driver opens data sets in a dry run."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"torch", "transformers", "sklearn", "scipy", "ray", "mlflow"}
LIGHT = (
    "trainables.records",
    "trainables.edits.sources",
    "trainables.edits.drawing",
    "trainables.edits.embedded",
    "trainables.edits.data_check",
    "trainables.edits.known",
    "trainables.datasets.countries.dataset",
)


def test_reading_data_and_drawing_edits_imports_nothing_heavy() -> None:
    code = (
        "import sys, importlib, pathlib\n"
        "from trainables.edits import embedded as world\n"
        "from trainables.edits.data_check import DataCheck\n"
        "from trainables.spec import TrialSpec\n"
        f"for name in {LIGHT!r}: importlib.import_module(name)\n"
        "spec = {'backbone': {'name': 'facts_tiny', 'model': 'embedded:facts_tiny',\n"
        "                     'dtype': 'float32'},\n"
        "        'dataset': {'name': 'facts', 'part': 'report'},\n"
        "        'method': {'name': 'no_edit', 'module': 'no_edit'},\n"
        "        'protocol': {'kind': 'batch', 'num_edits': 3,\n"
        "                     'target_ends_with_eos': True}, 'seed': 0}\n"
        "source = DataCheck(pathlib.Path('nowhere')).source(TrialSpec.parse(spec))\n"
        "assert source.is_preview and len(source.records) > 500\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert "trainables.edits.drawing" in done.stdout.split()
    assert HEAVY & set(done.stdout.split()) == set()
