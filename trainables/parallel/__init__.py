"""One trial on several processes, or in pieces of its rows."""
