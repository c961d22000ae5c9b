"""Reads objects from files and makes records of them, for all data sets that come in files."""
