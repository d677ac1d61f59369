"""Many runs planned as one: sweeps and folds, done here or as SLURM arrays, and their results."""
