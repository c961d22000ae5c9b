"""Which decoder layers a backbone has."""

from __future__ import annotations

from trainables.errors import ConfigError
from trainables.interfaces import Backbone


def check_edit_layer(layer: int, backbone: Backbone) -> None:
    """Refuse a `method.edit_layer` that the backbone does not have.

    Raises:
        ConfigError: If it does not.
    """
    if not 0 <= layer < backbone.num_layers:
        raise ConfigError(f"method.edit_layer is {layer}; allowed: 0 to {backbone.num_layers - 1}")
