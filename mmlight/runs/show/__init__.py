"""Runs shown: tables, reports, comparisons."""
