"""Runs a backbone from one layer up, on what the frozen layers below made of the prompts."""
