"""What is read from, or found in, a backbone's hidden states: moments, scales, vectors, answers."""
