"""Losses that own their learned parameters."""
