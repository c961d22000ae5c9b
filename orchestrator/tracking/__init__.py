"""Writes the rows of the ledger to MLflow without ever blocking a trial."""
