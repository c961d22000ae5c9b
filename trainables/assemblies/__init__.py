"""Parts of moe/ put on a backbone, for two methods or more."""
