"""What the papers print: their numbers, when ours may stand beside them, and their claims."""
