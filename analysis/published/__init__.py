"""The papers' numbers and claims, and whether ours may be compared with them."""
