"""Read shards as arrays."""
