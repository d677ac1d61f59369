"""Comparing runs by what their folders, or W&B, hold (no torch)."""
