"""Models that others published, read as what mmlight itself saves, and written back."""
