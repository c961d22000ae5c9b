"""Networks that turn the factors of a gradient into those of a change of the weights.

Source: Mitchell et al., "Fast Model Editing at Scale" (arXiv:2110.11309, Section 3), whose editor
MEND reads z = concat(k, delta), what enters a linear module and the gradient at what leaves it, of
one token, and gives pseudo factors of the same sizes; Tan et al., "Massive Editing for Large
Language Models via Meta Learning" (arXiv:2311.04661), take up the network. There is one for each
shape of the edited modules, which share it but for a scale and an offset of each block:

    z <- (z - mean) / deviation
    z <- z + relu(s * (U V z + b) + o)        MEND;  `scales` is `inside`
    z <- z + s * relu(U V z + b) + o          MALMEN's public code; `outside`

U is 0 at first, so that an untrained network gives what enters it. Its ReLU passes a gradient at 0,
or else nothing would ever be learned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from trainables.backbones.hidden_states.module_gradients import ModuleFactors
from trainables.interfaces import State

Scales = Literal["inside", "outside"]
_SMALL = 1e-7  # beside a deviation, as in both public codes


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes of the networks.

    Attributes:
        rank: Of U and V; at most the size of z.
        num_blocks: Residual blocks.
        scales: Where a module's own scale and offset act.
    """

    rank: int
    num_blocks: int
    scales: Scales


class Block(nn.Module):
    """One residual block; S tokens, M modules of one shape, Z = in + out."""

    def __init__(
        self, size: int, num_modules: int, settings: NetworkSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        rank = min(settings.rank, size)
        self._is_inside = settings.scales == "inside"
        self.down = nn.Parameter(torch.randn(rank, size, generator=generator))  # V
        self.up = nn.Parameter(torch.zeros(size, rank))  # U
        self.bias = nn.Parameter(torch.zeros(size))
        self.scale = nn.Parameter(torch.ones(num_modules, size))
        self.offset = nn.Parameter(torch.zeros(num_modules, size))

    def forward(self, z: Tensor, module: int) -> Tensor:
        """(S, Z) of the module with this number."""
        inner = z @ self.down.T @ self.up.T + self.bias
        scale, offset = self.scale[module], self.offset[module]
        # clamp passes the gradient at 0, where an untrained block stands; relu does not.
        if self._is_inside:
            return z + (scale * inner + offset).clamp(min=0)
        return z + scale * inner.clamp(min=0) + offset


class FactorNetwork(nn.Module):
    """The blocks for all modules of one shape, behind the normalisation of what they read."""

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        key_size: int,
        delta_size: int,
        num_modules: int,
        settings: NetworkSettings,
        generator: torch.Generator,
    ) -> None:
        """Untrained: blocks that add nothing, behind no normalisation."""
        super().__init__()
        self._sizes = [key_size, delta_size]
        size = key_size + delta_size
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size) - _SMALL)
        self.blocks = nn.ModuleList(
            Block(size, num_modules, settings, generator) for _ in range(settings.num_blocks)
        )

    def forward(self, keys: Tensor, deltas: Tensor, module: int) -> tuple[Tensor, Tensor]:
        """Pseudo keys (S, in) and pseudo deltas (S, out)."""
        z = (torch.cat([keys, deltas], -1) - self.mean) / (self.deviation + _SMALL)
        for block in self.blocks:
            z = block(z, module)
        first, second = z.split(self._sizes, -1)
        return first, second


class FactorNetworks(nn.Module):
    """One network for each shape among some linear modules."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        settings: NetworkSettings,
        generator: torch.Generator,
    ) -> None:
        """Make untrained networks.

        Args:
            shapes: Sizes (in, out) of each module, by its path.
            settings: Sizes of the networks.
            generator: For V.
        """
        super().__init__()
        members: dict[tuple[int, int], list[str]] = defaultdict(list)
        for path, shape in shapes.items():
            members[shape].append(path)
        self._place = {
            path: (number, own.index(path))
            for number, own in enumerate(members.values())
            for path in own
        }
        self.networks = nn.ModuleList(
            FactorNetwork(*shape, len(own), settings, generator) for shape, own in members.items()
        )

    def pseudo(self, path: str, factors: ModuleFactors) -> tuple[Tensor, Tensor]:
        """Pseudo keys (S, in) and pseudo deltas (S, out) of a module's tokens."""
        network, module = self._place[path]
        found: tuple[Tensor, Tensor] = self.networks[network](
            factors.keys.float(), factors.deltas.float(), module
        )
        return found

    @torch.no_grad()
    def normalise(self, parts: Sequence[Mapping[str, ModuleFactors]]) -> None:
        """Take mean and sample deviation of what is read from these tokens, over like modules."""
        for number, network in enumerate(self.networks):
            assert isinstance(network, FactorNetwork)
            read = [
                torch.cat([own.keys, own.deltas], -1).double()
                for part in parts
                for path, own in part.items()
                if self._place[path][0] == number
            ]
            count = sum(len(each) for each in read)
            mean = torch.stack([each.sum(0) for each in read]).sum(0) / count
            squares = torch.stack([((each - mean) ** 2).sum(0) for each in read]).sum(0)
            network.mean.copy_(mean)
            network.deviation.copy_((squares / max(1, count - 1)).sqrt())

    def state(self) -> State:
        """All that is trained, and the normalisation."""
        return State(dict(self.state_dict()))

    def load(self, state: State) -> None:
        """Take what `state` gave."""
        self.load_state_dict(state.tensors)
