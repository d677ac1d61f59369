"""Batches of shards that can't be indexed, read once from their beginning to their end."""
