"""Turns typed words and files of search_spaces into one checked configuration."""
