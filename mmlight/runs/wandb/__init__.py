"""What Weights & Biases keeps of a run, here and on its server."""
