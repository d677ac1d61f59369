"""Verbs of the command line that are made of others: folds, sweeps, averages of weights."""
