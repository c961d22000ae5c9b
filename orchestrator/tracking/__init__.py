"""From the ledger to MLflow, never blocking a trial."""
