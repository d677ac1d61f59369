"""The quickstart's data: coloured shapes, sentences about them, and a voice."""
