"""Reads results from MLflow, its database or a server, and the ended trials from the ledger."""
