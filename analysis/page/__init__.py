"""One HTML page of a whole store: what ran, its tables and figures, verdicts, what went wrong."""
