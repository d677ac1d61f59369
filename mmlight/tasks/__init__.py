"""LightningModules: towers, objective and metrics."""
