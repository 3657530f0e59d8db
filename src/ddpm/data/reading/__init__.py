"""From shards to arrays."""
