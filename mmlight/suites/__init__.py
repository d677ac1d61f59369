"""Suites of evaluation sets: models are embedded on them once, then scored task by task."""
