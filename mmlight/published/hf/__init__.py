"""Folders of transformers: CLIP, SigLIP, SigLIP 2 and CLAP, read and written."""
