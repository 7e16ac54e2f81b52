"""Arrays in, arrays out: tissue, contrast maps, the variational model, blending, metrics."""
