"""Callbacks and loggers that write down what a run did and found."""
