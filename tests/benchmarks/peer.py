r"""What an edit costs here and with EasyEdit: the same records, model, layers, rates and steps.

    python tests/benchmarks/peer.py easyedit=FOLDER [backbone=NAME|FOLDER] [only=CASE,...]
        [edits=10] [records=FILE] [profile=yes]

`easyedit` is a checkout of EasyEdit, of which nothing is changed or kept. `backbone` is a file of
search_spaces/backbone or a checkpoint's folder of the LLaMA kind, smollm2_135m unless told;
`records` a file of CounterFact, the facts about countries unless told. The cases:

`ft_m`        each edit alone, the weight put back behind it; here side by side, the result the same
`ft_m_batch`  all edits in one batch
`lora`        all edits in one batch; each side draws its own maps, and EasyEdit's loss weighs
              edits by their tokens; its dropout stays on while it answers, so that none is set
`grace`       one codebook; here in one batch, there one after the other, with the same result
`rome`        one edit after another, bare prompts, C = identity, as EasyEdit on LLaMA2-7B
`r_rome`      the same with two contexts, which are this side's on both
`rome_single`, `lora_single`, `memit_single`  each edit alone, as `ft_m`
`memit`       all edits in one batch; the KL term at the subject, as EasyEdit has it. Needs
              `records`: the facts about countries have too little text for second moments
`alphaedit`   as `memit`; EasyEdit solves in float32
`wise`        one side memory, one edit after the other, eleven rows and an unrelated one each
`answers`     nothing is edited: what the records are scored on is asked, tokenisation included and
              for the first time, so that no state is kept from before; CPU seconds are a prompt's

Each side runs twice, in turns, in processes of one thread of their own, and only editing is timed
(of `answers` only asking). Both sides' answers, to each edit, one rephrase and one unrelated prompt
of it, are scored here. All must agree token by token but for `lora`, `alphaedit` and `wise`, whose
likelihood EasyEdit divides by one token too many, and whose masks and prefixes each side draws
itself. Where they differ, what each answered stands below.

EasyEdit's modules may ask for packages that are not installed here (MEMIT's and ROME's for
`datasets`, LoRA's for `peft`, its evaluation for `openai`): such a case is left out in one line; a
folder on PYTHONPATH that holds them will do. So is a case whose method is not in
search_spaces/method.

With `profile=yes` this side runs once more, and a line says what part of its time torch's matrix
products take, which no other order of the same work makes less.

Nothing here passes or fails a test. CPU seconds move by a tenth to a third between equal runs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from tests.benchmarks.peer_inputs import FILES, Inputs, inputs_file, moments_file, tokens_file
from tests.benchmarks.peer_result import (
    ANSWERS,
    Result,
    difference_lines,
    method_of,
    result_file,
    rows_agreeing,
    scores,
)

# The least that these ratios were when they were first measured: commit 14cea82 of EasyEdit, 10
# records of CounterFact on smollm2_135m. That of answers is what they had to become.
LEAST_RATIO = {
    **{"ft_m": 1.8, "ft_m_batch": 2.3, "grace": 7.4, "memit": 2.4, "wise": 4.7},
    **{"rome_single": 2.0, "lora_single": 2.0, "answers": 3.3},
}
CASES = (
    *("ft_m", "ft_m_batch", "lora", "grace", "rome", "r_rome", "memit", "alphaedit"),
    *("rome_single", "lora_single", "memit_single", "wise", "answers"),
)
MUST_AGREE = (
    "ft_m",
    "ft_m_batch",
    "grace",
    "rome",
    "rome_single",
    "r_rome",
    "memit",
    "memit_single",
    "answers",
)
NEED_MOMENTS = ("memit", "memit_single", "alphaedit")
IN_TURNS = ("theirs", "ours", "ours", "theirs")  # theirs first: what is missing shows at once
METHODS = ROOT / "search_spaces" / "method"
_MARK = Path("easyeditor", "models", "ft", "ft_main.py")
_SIDES = {"ours": "peer_ours", "theirs": "peer_easyedit"}
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
}


class PeerError(Exception):
    """What cannot be run, in one line."""


@dataclass(frozen=True)
class Options:
    """What was typed."""

    easyedit: Path
    backbone: str
    only: tuple[str, ...]
    edits: int
    records: str | None
    is_profiled: bool = False


def options(words: Sequence[str]) -> Options:
    """The options that `words` hold.

    Raises:
        PeerError: If one is unknown, missing or cannot be.
    """
    allowed = ("easyedit", "backbone", "only", "edits", "records", "profile")
    typed: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in allowed or not value:
            raise PeerError(f"{word!r} is not known; allowed: {'=, '.join(allowed)}=")
        typed[key] = value
    if "easyedit" not in typed:
        raise PeerError("easyedit= is missing; it names a folder that holds a checkout of EasyEdit")
    checkout = Path(typed["easyedit"]).resolve()
    if not (checkout / _MARK).is_file():
        raise PeerError(f"easyedit={checkout} is no checkout of EasyEdit: it has no {_MARK}")
    only = tuple(typed.get("only", ",".join(CASES)).split(","))
    for case in only:
        if case not in CASES:
            raise PeerError(f"only={case} is not known; allowed: {', '.join(CASES)}")
    edits = typed.get("edits", "10")
    if not edits.isdecimal() or int(edits) < 1:
        raise PeerError(f"edits={edits} is no number of edits; allowed: 1 and more")
    backbone, records = typed.get("backbone", "smollm2_135m"), typed.get("records")
    if Path(backbone).is_dir():
        backbone = str(Path(backbone).resolve())
    if records is not None:
        if not Path(records).is_file():
            raise PeerError(f"records={records}: there is no such file")
        records = str(Path(records).resolve())
    if typed.get("profile", "yes") != "yes":
        raise PeerError(f"profile={typed['profile']} is not known; allowed: profile=yes")
    return Options(checkout, backbone, only, int(edits), records, "profile" in typed)


def compare(wanted: Options) -> None:
    """Print the conditions and a line for each case.

    Raises:
        PeerError: If the records or the model cannot be had.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told = {"backbone": wanted.backbone, "num_edits": wanted.edits, "records": wanted.records}
        said = _run("peer_inputs", str(folder), json.dumps(told))
        if not inputs_file(folder).is_file():
            raise PeerError(said)
        inputs = Inputs.read(folder)
        print(_conditions(wanted, inputs))
        print(HEADER, flush=True)
        for case in wanted.only:
            print(_measured(case, wanted, inputs, folder), flush=True)


HEADER = (
    f"  {'case':<11} {'CPU-s an edit':<14} {'EasyEdit':<14} {'ratio':<6} {'demand':<15} "
    f"{'peak GiB':<10} {'EasyEdit':<10} {'rel/gen/loc':<16} {'EasyEdit':<16} rows that agree"
)


NO_MOMENTS = (
    "its second moments need more text than the other records of these data have; "
    "records= of CounterFact have it"
)


def line_of(case: str, inputs: Inputs, ours: Sequence[Result], theirs: Sequence[Result]) -> str:
    """The line of one case, of its runs on both sides."""
    parts = inputs.probes if case == ANSWERS else inputs.records
    least = LEAST_RATIO.get(case)
    ratio = sum(run.seconds for run in theirs) / sum(run.seconds for run in ours)
    demand = "none yet"
    if least is not None:
        demand = f">= {least}: {'met' if ratio >= least else 'NOT MET'}"
    agreeing = rows_agreeing(ours[0].answers, theirs[0].answers)
    agreement = f"{agreeing} of {len(inputs.probes)}"
    if case not in MUST_AGREE:
        agreement += ", not asked for"
    elif agreeing < len(inputs.probes):
        agreement += ": THEY DIFFER"
    seconds = [_spread([run.seconds / len(parts) for run in side]) for side in (ours, theirs)]
    peaks = [f"{max(run.peak_gib for run in side):.2f}" for side in (ours, theirs)]
    found = [scores(inputs.probes, side[0].answers) for side in (ours, theirs)]
    return (
        f"  {case:<11} {seconds[0]:<14} {seconds[1]:<14} {ratio:<6.2f} "
        f"{demand:<15} {peaks[0]:<10} {peaks[1]:<10} {found[0]:<16} {found[1]:<16} {agreement}"
    )


def _measured(case: str, wanted: Options, inputs: Inputs, folder: Path) -> str:
    """The line of one case and those of its differences, or why there is none."""
    if case in NEED_MOMENTS and not moments_file(folder).is_file():
        return f"  {case:<11} left out: {NO_MOMENTS}"
    if not (METHODS / f"{FILES.get(method_of(case), method_of(case))}.yaml").is_file():
        return f"  {case:<11} left out: there is no method {method_of(case)} here"
    found: Mapping[str, list[Result]] = {"ours": [], "theirs": []}
    for side in IN_TURNS:
        result_file(folder).unlink(missing_ok=True)
        more = [str(wanted.easyedit)] if side == "theirs" else []
        said = _run(_SIDES[side], case, str(folder), *more)
        if not result_file(folder).is_file():
            return f"  {case:<11} left out: {_reason(side, said)}"
        found[side].append(Result.read(folder))
    ours, theirs = (found[side][0].answers for side in ("ours", "theirs"))
    texts = json.loads(tokens_file(folder).read_text("utf-8"))
    lines = [line_of(case, inputs, found["ours"], found["theirs"])]
    if wanted.is_profiled:
        _run(_SIDES["ours"], case, str(folder), "profiled")
        shares = Result.read(folder).shares
        lines.append(
            f"    profiled: of this side's time {shares['products']:.0%} in matrix products, "
            f"{shares['others']:.0%} in other operations of torch"
        )
    return "\n".join([*lines, *difference_lines(inputs, ours, theirs, texts)])


def _reason(side: str, said: str) -> str:
    missing = re.fullmatch(r"ModuleNotFoundError: No module named '([\w.]+)'", said)
    if missing and side == "theirs":
        return (
            f"EasyEdit's code asks for the package {missing[1]!r}, which is not installed; "
            "a folder on PYTHONPATH that holds it will do"
        )
    return f"{'EasyEdit' if side == 'theirs' else 'this side'} ended with {said}"


def _run(module: str, *words: str) -> str:
    """Run one of the modules beside this one; the last line of what it complained of."""
    made = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *words],
        cwd=ROOT,
        env=os.environ | _ONE_THREAD,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    lines = made.stderr.strip().splitlines() if made.returncode else []
    return lines[-1] if lines else f"exit status {made.returncode}"


def _conditions(wanted: Options, inputs: Inputs) -> str:
    records = Path(wanted.records).name if wanted.records else "countries"
    return (
        f"peer: EasyEdit at {_commit(wanted.easyedit)}, this project at {_commit(ROOT)}; "
        f"{wanted.backbone}, {inputs.num_layers} layers, float32; {len(inputs.records)} records "
        f"of {records}; one thread, of {os.cpu_count()} cores with load "
        f"{os.getloadavg()[0]:.1f}; each side twice, in turns"
    )


def _commit(folder: Path) -> str:
    words = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    return made.stdout.strip() or "an unknown commit"


def _spread(values: Sequence[float]) -> str:
    digits = 3 if max(values) < 0.1 else 2
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def main(words: Sequence[str]) -> int:
    """Run what was typed; 2 when it cannot be."""
    try:
        compare(options(words))
    except PeerError as error:
        print(f"peer.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
