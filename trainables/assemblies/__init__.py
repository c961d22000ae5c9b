"""Parts of moe/ joined to a backbone, where two methods or more use the same ones."""
