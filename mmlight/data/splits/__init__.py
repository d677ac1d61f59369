"""Splits of a data set: shards, chosen samples, folds and plain files."""
