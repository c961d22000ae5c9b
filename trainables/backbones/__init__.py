"""Backbones: loading, where each family keeps its parts, surgery, and the cached split."""
