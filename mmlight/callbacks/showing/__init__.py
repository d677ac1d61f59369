"""Callbacks that show it: on the terminal, in pictures and tables."""
