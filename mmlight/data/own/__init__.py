"""Data of one's own: what lies in a folder, and experiments on it."""
