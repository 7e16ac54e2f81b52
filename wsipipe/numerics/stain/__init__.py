"""Stain normalisation: one change of colours for all of a slide, from its own stain to that of a reference."""
