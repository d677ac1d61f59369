"""One way from a verb and its arguments to configuration, data, task and trainer."""
