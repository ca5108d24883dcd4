"""All legal plans of a model on a cluster, ranked; fallback plans after a loss."""
