"""Sharded webdataset tar files to batches."""
