"""What is ours in how a task is trained: strategies, checkpoints, signals, averaged weights."""
