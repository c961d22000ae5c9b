"""Which records a trial edits: sources, the draw, the stream, their frequency."""
