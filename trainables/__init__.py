"""Everything that touches a model; usable from a notebook without Ray or MLflow."""
