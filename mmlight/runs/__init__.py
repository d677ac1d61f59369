"""Run folders, their pictures and their report (no torch)."""
