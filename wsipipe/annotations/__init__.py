"""Annotations: points and polygons, one reader per format.

`reading` opens a file of any format and gives points or regions; `classes` says which classes are in-target; `audit`
checks points before anything is learned from them; `sampling` draws points from masks, and `masks` reads those.
"""
