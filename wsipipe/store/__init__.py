"""Files of ours: feature maps, checkpoints, masks, GeoJSON; the only place that writes."""
