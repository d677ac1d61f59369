"""Tar shards: sealed, indexed, and read at any place."""
