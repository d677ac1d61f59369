"""Cards of papers: what was reported, how it is trained here, and what came out."""
