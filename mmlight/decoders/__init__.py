"""Decoders: text towers that see only what came before, and so can say what comes next."""
