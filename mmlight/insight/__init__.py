"""What a trained model looks at, and where it fails."""
