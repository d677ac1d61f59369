"""Callbacks that measure beside the task: speed, probes, zero-shot, what is left out."""
