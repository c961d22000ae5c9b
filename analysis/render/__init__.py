"""Tables as text: their cells, whole documents, and what fits a terminal."""
