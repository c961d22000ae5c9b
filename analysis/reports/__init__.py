"""What the commands print of a store: tables, verdicts on claims, presets of a search."""
