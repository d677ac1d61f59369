"""Models of open_clip, read and written without open_clip."""
