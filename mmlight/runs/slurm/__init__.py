"""Running on a SLURM cluster: profiles of clusters, job scripts, and SLURM's own commands."""
