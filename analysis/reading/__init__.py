"""Where results are read: MLflow, by its database or a server, and the ends in the ledger."""
