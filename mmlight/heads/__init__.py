"""Heads: what turns features of the towers into the answers of a task."""
