"""Keeps results on disk, safe from a crash: ledger, rows, leases and copies."""
