"""Local training: a model, a shard and a plan; one round at a time."""
