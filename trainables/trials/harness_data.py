"""Makes sure that the data of lm-evaluation-harness's own tasks can be had, before Ray starts.

The driver does not load the harness, which takes seconds and torch: a process of its own does.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from trainables.ability.definitions import defined
from trainables.spec import EvaluateSpec


def check_harness_data(wanted: EvaluateSpec) -> None:
    """Load each task that no file of `search_spaces/ability/` defines; nothing without any.

    Raises:
        EditingError: If the data of one cannot be had, or it has no score that can be paired.
    """
    names = [name for name in wanted.ability if name not in defined()]
    if not names:
        return
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for name in names:
            pool.submit(_check, wanted, name).result()


def _check(wanted: EvaluateSpec, name: str) -> None:
    from trainables.ability.harness import check_data

    check_data(wanted, name)
