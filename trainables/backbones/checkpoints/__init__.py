"""A checkpoint before torch loads it: where it lies, if it is whole, if it can be edited."""
