"""What a crash cannot take: ledger, leases, copies, and what stands in a row."""
