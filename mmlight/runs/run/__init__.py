"""A run: its folder, configuration, logs, summary and state."""
