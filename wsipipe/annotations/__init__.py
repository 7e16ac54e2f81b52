"""Annotations: points and polygons, one reader per format."""
