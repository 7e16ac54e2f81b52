"""Slides: one protocol over OpenSlide, tiffslide and plain images."""

from wsipipe.slides.base import SlideReader
from wsipipe.slides.identity import slide_files, slide_identity
from wsipipe.slides.listing import SlideEntry, keys_beside, list_slides
from wsipipe.slides.opening import open_slide
from wsipipe.slides.overview import read_overview
from wsipipe.slides.resolution import require_mpp
from wsipipe.slides.view import MppView

__all__ = [
    "MppView",
    "SlideEntry",
    "SlideReader",
    "keys_beside",
    "list_slides",
    "open_slide",
    "read_overview",
    "require_mpp",
    "slide_files",
    "slide_identity",
]
