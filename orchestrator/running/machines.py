"""The machines of a sweep: its Ray, the nodes that can work on it, and their resources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import torch

from orchestrator.forecast.placement import Placement, Supply, placement, preflight, widest
from orchestrator.planning.cell import Cell
from orchestrator.running.cluster import LOCAL, running_ray, supply
from orchestrator.running.nodes import Demands, Nodes
from orchestrator.settings.models import SweepConfig


class Machines:
    """The nodes and resources of a sweep; Ray starts on first use and ends with `close`."""

    def __init__(
        self, config: SweepConfig, store: Path, scratch: Path, on_stage: Callable[[str], None]
    ) -> None:
        """Nothing is started.

        Args:
            config: The sweep.
            store: Its folder, which every node must have.
            scratch: A folder of this driver's own in the store.
            on_stage: Told what goes on.
        """
        self._config = config
        self._store = store
        self._scratch = scratch
        self._on_stage = on_stage
        self._ray = ExitStack()
        self._supplies: dict[frozenset[str], Supply] = {}  # by the nodes that are left out

    @cached_property
    def nodes(self) -> Nodes:
        """The nodes that this sweep works on; Ray starts here and runs until `close`.

        Raises:
            UsageError: If there is no such cluster, or one of its nodes cannot work on the sweep.
        """
        cluster = self._config.cluster
        self._ray.enter_context(
            running_ray(cluster, self._config.workers, torch.cuda.device_count())
        )
        self._on_stage("starting the first trials")
        if cluster == LOCAL:
            return Nodes(None)
        nodes = Nodes(Demands.of_this_process(self._store, self._scratch))
        nodes.look()
        nodes.raise_if_more_than(0)
        return nodes

    @property
    def supply(self) -> Supply:
        """The resources that Ray had, or might get, at the start or when a node was left out.

        It is not counted again each time: a node that is lost may come back.
        """
        left_out = frozenset(self.nodes.unfit)
        if left_out not in self._supplies:
            self._supplies[left_out] = supply(self._config.cluster, left_out)
        return self._supplies[left_out]

    def need(self, cells: Sequence[Cell]) -> Placement:
        """The resources that are enough for any of the trials.

        Raises:
            UsageError: If the cluster can never give it.
        """
        there, sharing = self.supply, self._config.sharing
        for cell in cells:
            preflight(cell.spec, there.total, sharing, there.nodes)
        return widest(placement(cell.spec, there.total, sharing) for cell in cells)

    def close(self) -> None:
        """Stop Ray, if it was started."""
        self._ray.close()
