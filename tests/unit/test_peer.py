"""The comparison with a checkout of EasyEdit, as far as it goes without one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks import peer
from tests.benchmarks.peer_inputs import SETTINGS, Inputs, Probe, Record, text_file
from tests.benchmarks.peer_result import Result, difference_lines, rows_agreeing, scores

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of one as is looked at before anything runs."""
    file = tmp_path / "checkout" / "easyeditor" / "models" / "ft" / "ft_main.py"
    file.parent.mkdir(parents=True)
    file.touch()
    return tmp_path / "checkout"


def test_command_when_the_folder_is_no_checkout_then_one_line_and_status_2(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "tests/benchmarks/peer.py"), f"easyedit={tmp_path}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (made.returncode, made.stdout) == (2, "")
    assert made.stderr == (
        f"peer.py: easyedit={tmp_path} is no checkout of EasyEdit: it has no "
        "easyeditor/models/ft/ft_main.py\n"
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "easyedit= is missing"),
        (("only=mend",), "only=mend is not known; allowed: ft_m, ft_m_batch, lora, grace, rome, "),
        (("edits=0",), "edits=0 is no number of edits; allowed: 1 and more"),
        (("records=/nowhere.json",), "records=/nowhere.json: there is no such file"),
        (("seeds=3",), "'seeds=3' is not known; allowed: easyedit=, backbone=, only=, edits="),
    ],
)
def test_options_when_one_cannot_be_then_it_is_named(
    words: tuple[str, ...], complaint: str, checkout: Path
) -> None:
    where = (f"easyedit={checkout}",) if words else ()
    with pytest.raises(peer.PeerError) as raised:
        peer.options((*where, *words))
    assert str(raised.value).startswith(complaint)


def test_options_when_only_a_checkout_is_typed_then_every_case_of_ten_edits(checkout: Path) -> None:
    wanted = peer.options([f"easyedit={checkout}"])
    assert (wanted.backbone, wanted.edits, wanted.records) == ("smollm2_135m", 10, None)
    assert wanted.only == peer.CASES


def test_run_when_the_backbone_is_not_there_then_one_line_and_status_2(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert peer.main([f"easyedit={checkout}", "backbone=no_such_file"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "no_such_file" in err


def inputs() -> Inputs:
    """Two records; the first is scored on two prompts, the second on one."""
    own, other = Probe("reliability", [5, 6, 7, 8], 2), Probe("locality", [5, 9], 1)
    first = Record("a b", "c d", "b", "e", [own, other])
    second = Record("a e", "f", "e", "b", [Probe("reliability", [5, 3, 4], 2)])
    return Inputs("/model", 30, {}, [first, second], [])


def test_layers_then_at_the_depth_that_was_published_of_32() -> None:
    # 21 * 30 / 32 = 19.7, 27 * 30 / 32 = 25.3
    assert inputs().settings("ft_m") == {**SETTINGS["ft_m"], "edit_layer": 20}
    assert inputs().settings("grace")["edit_layer"] == 25
    assert inputs().settings("memit")["layers"] == [4, 5, 6, 7, 8]
    # 4 .. 8 of 32 are 2, 2.5, 3, 3.5, 4 of 16; halves go to the even layer
    assert replace(inputs(), num_layers=16).settings("memit")["layers"] == [2, 3, 4]


def test_scores_then_the_mean_over_probes_of_the_share_of_tokens() -> None:
    # (1 of 2 + 1 of 1) / 2; no rephrase; 9 is asked for
    assert scores(inputs().probes, [[7, 1], [2], [4]]) == "0.75/-/0.00"


def test_differences_then_what_each_side_said_to_what() -> None:
    texts = [" no", " yes", " or", *"345678", " ends"]
    lines = difference_lines(inputs(), [[7, 8], [2], [4]], [[7, 1], [9], [4]], texts)
    assert lines == [
        "    record 0, reliability, asked for '78': '78' here, '7 yes' there",
        "    record 0, locality, asked for ' ends': ' or' here, ' ends' there",
    ]


def test_rows_agreeing_then_all_tokens_of_a_row_must_be_alike() -> None:
    assert rows_agreeing([[7, 8], [2], [4]], [[7, 1], [2], [4]]) == 2


def test_line_then_seconds_an_edit_their_ratio_and_whether_scores_agree() -> None:
    right = [[7, 8], [2], [4]]
    ours, theirs = Result(4.0, 1.0, right), Result(9.0, 1.25, right)
    shown = peer.line_of("ft_m", inputs(), [ours, replace(ours, seconds=6.0)], [theirs, theirs])
    # 18 / 10; half of each run's seconds, as there are two edits
    wanted = (
        "ft_m 2.00 to 3.00 4.50 to 4.50 1.80 >= 1.8: met 1.00 1.25 1.00/-/0.00 1.00/-/0.00 3 of 3"
    )
    assert shown.split() == wanted.split()
    wrong = replace(theirs, answers=[[7, 1], [2], [4]])
    slow = peer.line_of("grace", inputs(), [ours, ours], [wrong, wrong])
    assert slow.endswith("2 of 3: THEY DIFFER")
    assert ">= 7.4: NOT MET" in slow
    assert peer.line_of("wise", inputs(), [ours], [wrong]).endswith("2 of 3, not asked for")
    assert "2.25   none yet " in peer.line_of("lora", inputs(), [ours], [theirs])
    # 4 and 9 seconds of three prompts
    asked = peer.line_of("answers", inputs(), [ours], [theirs])
    assert asked.split()[:7] == ["answers", "1.33", "to", "1.33", "3.00", "to", "3.00"]
    quick = peer.line_of("answers", inputs(), [replace(ours, seconds=0.15)], [theirs])
    assert quick.split()[:4] == ["answers", "0.050", "to", "0.050"]


HERE = [
    name for name in peer.CASES if name != "alphaedit" or (peer.METHODS / f"{name}.yaml").is_file()
]


@pytest.mark.parametrize("case", HERE)
def test_our_side_then_each_case_edits_and_answers_every_probe(
    case: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    from tests.benchmarks.peer_ours import edited  # torch
    from trainables.backbones.tokenizer import load_tokenizer
    from trainables.prompts import tokenise

    tokenizer, records = load_tokenizer(checkpoints["llama"]), []
    for prompt, target, subject in (("Who leads Oslo Bay?", "Ivo", "Oslo Bay"), ("Is A", "B", "A")):
        row = tokenise(tokenizer, prompt, target)
        probe = Probe("reliability", list(row.ids), row.prompt_length)
        records.append(Record(prompt, target, subject, "Who wrote it?", [probe]))
    text_file(tmp_path).write_text("Lumen Works was founded in Vesper.\nIvo lives there.")
    given = Inputs(str(checkpoints["llama"]), 4, {}, records, ["Where is it?", "Who wrote it?"])
    found = edited(case, given, tmp_path)
    assert found.seconds > 0
    assert [len(answer) for answer in found.answers] == [len(p.target) for p in given.probes]
    if case == "grace":  # its value stands where a target's first token is predicted
        assert [answer[0] for answer in found.answers] == [p.target[0] for p in given.probes]
