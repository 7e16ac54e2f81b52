"""Ways to learn from points, one class each behind one interface: the rows of the paper's Table 1."""
