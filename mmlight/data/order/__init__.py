"""Which samples make which batch, as a pure function of seed, epoch and step."""
