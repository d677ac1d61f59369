"""Loading what was trained, and weights of other projects."""
