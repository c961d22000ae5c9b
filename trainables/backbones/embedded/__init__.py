"""The backbones that are made here: their recipe and their training."""
