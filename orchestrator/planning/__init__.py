"""From one checked configuration to the trials of a sweep, each with its identity; pure."""
