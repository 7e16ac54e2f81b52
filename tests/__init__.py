"""A package, so that workers find it by its name wherever others install a `tests` of their own."""
