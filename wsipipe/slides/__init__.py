"""Slides: one protocol over OpenSlide, tiffslide, plain images and tiles read straight from the file."""

from wsipipe.slides.base import SlideReader
from wsipipe.slides.dicom import is_dicom, series_files
from wsipipe.slides.identity import slide_files, slide_identity
from wsipipe.slides.listing import SlideEntry, find_slide, keys_beside, list_slides
from wsipipe.slides.opening import open_slide
from wsipipe.slides.overview import read_overview
from wsipipe.slides.resolution import require_mpp
from wsipipe.slides.view import MppView

__all__ = [
    "MppView",
    "SlideEntry",
    "SlideReader",
    "find_slide",
    "is_dicom",
    "keys_beside",
    "list_slides",
    "open_slide",
    "read_overview",
    "require_mpp",
    "series_files",
    "slide_files",
    "slide_identity",
]
