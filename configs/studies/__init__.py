"""Studies: configuration files whose variants stand in one table (`python -m robust_jax.study`)."""
