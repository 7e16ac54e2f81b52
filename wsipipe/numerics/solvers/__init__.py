"""Minimisers of the two-phase energy: one problem, one outer loop, interchangeable backends."""
