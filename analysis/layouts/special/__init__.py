"""Published tables that need code of their own; each file bears the id of its table."""
