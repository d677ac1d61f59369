"""Text: tokenizers and their decoding, and how a text is cut into words."""
