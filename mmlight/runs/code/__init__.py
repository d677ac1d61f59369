"""The code of a run: recorded, copied for a job, and checked out again."""
