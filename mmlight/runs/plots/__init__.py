"""Pictures of runs: arrays in, PNG files out."""
