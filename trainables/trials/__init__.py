"""One trial from its specification to its rows, without Ray but for `ray_trial` and `ray_ranks`."""
