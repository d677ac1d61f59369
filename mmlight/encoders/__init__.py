"""Backbones for images, text and audio behind one contract."""
