"""One trial, from its specification to its rows; only `ray_trial` and `ray_ranks` import Ray."""
