"""Layouts of published tables that need code of their own; a file is named by its table's id."""
