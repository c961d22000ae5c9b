"""Reading a real MLflow store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.errors import StoreError
from analysis.reading import runs
from tests.unit.analysis_store import shared_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_store(tmp_path_factory)


def test_read_runs_when_a_metric_was_logged_twice_then_the_last_step_counts(store: Path) -> None:
    rows = runs.read_runs([store], "smoke")
    found = {row["arm"]: row["metrics"]["reliability.token.final"] for _, row in rows.iterrows()}
    assert found == {"no_edit": 0.1, "ft_m": 0.95}  # 0.0 stood at half of the edits


def test_read_runs_when_a_trial_has_no_metric_then_it_still_has_a_row(store: Path) -> None:
    rows = runs.read_runs([store], "lemoe_lora")
    lost = rows[rows["status"] == "failed"]
    assert len(lost) == 1
    assert lost.iloc[0]["error"] == "out of memory"
    assert lost.iloc[0]["metrics"] == {}


def test_read_table_runs_when_asked_for_a_table_then_only_its_runs(store: Path) -> None:
    rows = runs.read_table_runs([store], "lemoe_table8")
    assert set(rows["ablation"]) == {"lemoe_layers"}
    assert {json.loads(text)["method.edit_layer"] for text in rows["swept"]} == {0, 9, 15}


def test_read_runs_when_the_experiment_is_missing_then_names_what_exists(store: Path) -> None:
    with pytest.raises(StoreError, match=r"'smok'; did you mean 'smoke'\? \(it holds: lemoe_comp"):
        runs.read_runs([store], "smok")


def test_read_table_runs_when_no_run_answers_it_then_names_what_exists(store: Path) -> None:
    with pytest.raises(StoreError, match="no runs for 'arm_table1'"):
        runs.read_table_runs([store], "arm_table1")


def test_experiments_when_there_is_no_store_then_says_so_and_creates_none(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    with pytest.raises(StoreError, match=r"has no mlflow\.db \(it holds ledger\)"):
        runs.experiments([tmp_path])
    with pytest.raises(StoreError, match="no such folder"):
        runs.experiments([tmp_path / "absent"])
    assert not (tmp_path / "mlflow.db").exists()


def test_experiments_when_the_file_is_no_database_then_says_so(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("torn", encoding="utf-8")
    with pytest.raises(StoreError, match="cannot be read as MLflow's database: file is not"):
        runs.experiments([tmp_path])


def test_read_records_when_the_artifact_exists_then_scores_bear_our_names(store: Path) -> None:
    rows = runs.read_runs([store], "lemoe_lora")
    records = runs.read_records(rows[rows["arm"] == "small"].iloc[0]["records"], "facts")
    assert records is not None
    assert set(records["score"]) == {"reliability", "generality", "locality"}
    assert set(records["subject"]) == {"s0", "s1"}


def test_read_records_when_there_is_no_artifact_then_none(store: Path) -> None:
    rows = runs.read_runs([store], "smoke")
    assert runs.read_records(rows.iloc[0]["records"], "facts") is None


def test_read_records_when_a_record_has_no_subject_then_it_is_its_own(tmp_path: Path) -> None:
    lines = [
        '{"record_id": "7", "subject": null, "score": "reliability", "token": 1, "when": "final"}',
        '{"record_id": "8", "subject": "s", "score": "reliability", "token": 0, "when": "final"}',
        '{"record_id": "9", "subject": "s", "token": 1, "when": "before"}',  # of no score
        '{"record_id": "8", "subject": "s", "score": "reliability", "token": 1, "when": "before"}',
    ]
    path = tmp_path / "records with space.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    records = runs.read_records(path.as_uri(), "facts")
    assert records is not None
    assert list(zip(records["subject"], records["token"], strict=True)) == [("7", 1), ("s", 0)]


def test_server_that_does_not_answer_is_named_in_one_line(store: Path) -> None:
    with pytest.raises(StoreError, match=r"mlflow=http://127.0.0.1:9: .*127.0.0.1") as raised:
        runs.read_runs([store], "smoke", "http://127.0.0.1:9")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("address", ["http://me:word@127.0.0.1:9", "sqlite:///x.db", "here"])
def test_server_whose_address_is_none_or_holds_a_password_is_refused(
    store: Path, address: str
) -> None:
    with pytest.raises(StoreError, match="without a user") as raised:
        runs.experiments([store], address)
    assert "word" not in str(raised.value)


def test_table_runs_when_there_are_none_then_the_error_names_the_sweeps_that_fill_it(
    store: Path,
) -> None:
    with pytest.raises(StoreError, match=r"no runs for 'lemoe_table7'.*fills it: ablation=(\w+)$"):
        runs.read_table_runs([store], "lemoe_table7")
    both = r"the sweep that fills it: ablation=arm_lifelong or ablation=arm_serial"
    with pytest.raises(StoreError, match=both):
        runs.read_table_runs([store], "arm_figure5")
    with pytest.raises(StoreError) as unknown:
        runs.read_table_runs([store], "table_of_nobody")
    assert "fills it" not in str(unknown.value)
