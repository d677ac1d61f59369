"""What labels mean, and whether they name classes."""
