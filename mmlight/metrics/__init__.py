"""Retrieval and zero-shot metrics that torchmetrics lacks."""
