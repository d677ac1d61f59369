"""Command lines of the verbs that take an experiment: checked, explained, run."""
