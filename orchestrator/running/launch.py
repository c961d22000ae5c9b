"""Runs a plan until all its trials are settled: a grid, or a search and then its best again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import cuda, get_num_threads, set_num_threads

from orchestrator.errors import StandstillError, UsageError
from orchestrator.forecast.calibration import keep_speed
from orchestrator.forecast.placement import preflight
from orchestrator.planning.cell import Cell
from orchestrator.planning.plan import Plan
from orchestrator.planning.searches import spec_for
from orchestrator.precheck import cache_of, precheck
from orchestrator.running.cluster import LOCAL, check_address, check_folder
from orchestrator.running.driver import Sweep
from orchestrator.running.interruption import Interruption
from orchestrator.running.opening import open_sweep, resolved_cell
from orchestrator.store.rows import Outcome
from orchestrator.store.settled import Options
from orchestrator.terminal.board import Building, announce
from orchestrator.terminal.waiting import Waiting
from orchestrator.threads import usable_cpus
from trainables.trials.asked import Asked
from trainables.trials.validation import Validator

Prepare = Callable[[Plan, Options, Interruption, Waiting], tuple[Sweep, Sequence[Cell]]]


def prepared(
    plan: Plan, options: Options, interruption: Interruption, waiting: Waiting
) -> tuple[Sweep, Sequence[Cell]]:
    """Opens a sweep and names its cells, after all checks that need no Ray."""
    check_address(plan.config.cluster)
    check_folder(plan.config.cluster)
    if plan.unpinned:
        raise UsageError(plan.unpinned[0])
    cache = cache_of(plan.config)
    set_num_threads(min(get_num_threads(), usable_cpus()))  # of a container's share, not of all
    waiting.now("checking settings, backbone and data")
    with Building(waiting) as building:
        # On a cluster the driver's machine may not be one that can load a backbone.
        asked = Asked(cache, waiting.now) if plan.config.cluster == LOCAL else None
        validator = Validator(
            cache, building.advance, plan.compared_numbers, building.converting, asked
        )
        precheck(plan, validator.check_data)  # all of it, before a backbone is trained
        cells = [resolved_cell(validator, spec) for spec in plan.trials or plan.middles]
    if plan.config.cluster == LOCAL:
        here = {"CPU": plan.config.workers or usable_cpus(), "GPU": cuda.device_count()}
        for cell in cells:
            preflight(cell.spec, here, plan.config.sharing)
    keep_speed(cache)
    waiting.now("reading what the store holds")
    sweep = open_sweep(plan.config, options, cache, validator, interruption)
    store = Path(plan.config.store).resolve()
    said = [*plan.notes, *validator.warnings, *_list_excluded(validator.excluded, store)]
    if plan.config.report == "live":
        said.append(f"report: {store / 'report.html'}, written again while the sweep runs")
    with waiting.paused():
        announce(said)
    return sweep, cells


def _list_excluded(excluded: Sequence[str], store: Path) -> list[str]:
    """Write which records of the user's files are left out, and why, into the store; says where."""
    if not excluded:
        return []
    listed = store / "excluded.txt"
    listed.write_text("\n".join(excluded) + "\n")
    return [f"records that are left out are listed in {listed}"]


def run(plan: Plan, options: Options, waiting: Waiting, prepare: Prepare = prepared) -> Outcome:
    """Run a plan until every trial is settled; `waiting` shows what goes on meanwhile.

    `prepare` opens the sweep and names its cells, once all checks have passed.

    Raises:
        EditingError: If something cannot work, before anything runs.
        LedgerError: If the store cannot be written or read.
    """
    interruption = Interruption()
    sweep = None
    try:
        with interruption.listening():
            sweep, cells = prepare(plan, options, interruption, waiting)
            with waiting.paused():
                if plan.is_search:
                    search(sweep, plan)
                else:
                    sweep.settle(cells)
    except KeyboardInterrupt:
        if sweep is None:
            raise
        sweep.outcome.was_interrupted = True
    except StandstillError as error:
        assert sweep is not None
        sweep.outcome.standstill = str(error)
    finally:
        if sweep is not None:
            sweep.close(waiting.now)
    return sweep.outcome


def search(sweep: Sweep, plan: Plan) -> None:
    """Optuna's trials on one part of the data, then the best of each search again on another.

    What runs beside them, such as published settings, is ranked with them.
    """
    config, rerun = plan.config, plan.config.rerun
    rivals = [
        [sweep.cell(spec_for(config, it, seed)) for seed in config.seeds for it in each.rivals]
        for each in plan.searches
    ]
    sweep.settle([cell for each in rivals for cell in each], scheduler="fifo")
    again: list[dict[str, Any]] = []
    for each, others in zip(plan.searches, rivals, strict=True):
        keys = [key for seed in config.seeds for key in sweep.suggest(config, each, seed)]
        keys += [cell.key for cell in others]
        if rerun is not None:
            best = sweep.results.scores.best(rerun.best, keys)
            again += [sweep.results.cells[key].spec.swept for key in best]
            again += [dict(each.fixed)] if rerun.untuned and dict(each.fixed) not in again else []
    if rerun is not None:
        specs = [spec_for(config, it, seed, rerun.part) for seed in rerun.seeds for it in again]
        sweep.settle([sweep.cell(spec) for spec in specs], scheduler="fifo")
