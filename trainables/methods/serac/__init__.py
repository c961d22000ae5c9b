"""SERAC and its parts: a scope classifier, a counterfactual model, and what joins them."""
