"""Slides: one protocol over OpenSlide, tiffslide and plain images."""
