"""What a checkpoint, a checkpoint in parts or an export is: told apart, read, rebuilt."""
