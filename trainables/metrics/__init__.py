"""How an edited backbone is scored."""
