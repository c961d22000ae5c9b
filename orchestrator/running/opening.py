"""Opens one driver's sweep: store, ledger segment, leases, MLflow and the access to Ray."""

from __future__ import annotations

import shutil
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.planning.cell import Cell, Resolved
from orchestrator.planning.identity import fingerprint
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.running.cluster import set_environment
from orchestrator.running.driver import Sweep
from orchestrator.running.interruption import Interruption
from orchestrator.running.live_report import LiveReport
from orchestrator.running.machines import Machines
from orchestrator.running.results import Results
from orchestrator.settings.models import SweepConfig
from orchestrator.store.copies import Copies
from orchestrator.store.leases import Leases
from orchestrator.store.ledger import Ledger, Others
from orchestrator.store.provenance import ROOT, keep_packages, provenance, source_hash
from orchestrator.store.settled import Options, Settled
from orchestrator.terminal.board import Board
from orchestrator.terminal.running_trials import SCRATCH, pulse_folder
from orchestrator.tracking.apart import TrackerProcess
from trainables.spec import TrialSpec as ToldSpec
from trainables.trials.validation import Validator

if TYPE_CHECKING:
    from orchestrator.running.tuning import Tuning


def resolved_cell(validator: Validator, spec: TrialSpec) -> Cell:
    """The cell of a specification, with its fingerprint.

    Raises:
        EditingError: If it cannot work.
    """
    resolved = Resolved(**validator.validate(ToldSpec.parse(spec.to_dict())))
    return Cell(fingerprint(spec, resolved.identity), spec, resolved)


def open_sweep(
    config: SweepConfig,
    options: Options,
    cache: Path,
    validator: Validator,
    interruption: Interruption,
) -> Sweep:
    """Opens a sweep on its store; nothing runs yet.

    Raises:
        LedgerError: If the store cannot be written or read.
        UsageError: If its copies cannot be read.
    """
    store = Path(config.store).resolve()
    copies = Copies(store, config.copies) if config.copies else None
    if copies is not None:
        copies.fetch()
    history = Ledger.read(store)
    ledger = Ledger.open(store, history.last_time)
    leases = Leases(ledger.path)
    settled = Settled(history, Others(store, ledger.path), options, config.scheduler.metric)
    made_by = once(provenance)  # of the moment at which the first trial starts
    results = Results(
        config,
        settled,
        ledger,
        TrackerProcess(store, config.ablation, config.question, config.mlflow),
        provenance=made_by,
        source_hash=source_hash(ROOT / "trainables"),
        copies=copies,
    )

    def start(listener: Results) -> Tuning:
        keep_packages(store, made_by()["packages"])
        if copies is not None:
            copies.begin(ledger.path)
        set_environment(config.cluster, config.niceness)
        from orchestrator.running.tuning import Tuning  # heavy: ray

        scratch = _fresh_scratch(store, leases, ledger.path.stem)
        machines = Machines(config, store, scratch, listener.on_stage)
        return Tuning(config, cache, store, scratch, machines, interruption, listener)

    report = None
    if config.report == "live":
        report = LiveReport(store, config.ablation, config.mlflow)
    return Sweep(
        results,
        settled,
        leases,
        resolved=partial(resolved_cell, validator),
        start=start,
        board=partial(
            Board,
            pulses=pulse_folder(store, ledger.path.stem),
            compared=config.scheduler.compared,
            page=report,
        ),
        report=report,
        scheduler="fifo" if options.complete_stopped else config.scheduler.name,
    )


def _fresh_scratch(store: Path, leases: Leases, own: str) -> Path:
    """This driver's folder for Ray's own files; those of killed drivers are removed."""
    scratch = store / SCRATCH
    living = leases.drivers()
    for folder in scratch.iterdir() if scratch.is_dir() else ():
        if folder.name not in living:
            shutil.rmtree(folder, ignore_errors=True)
    return scratch / own
