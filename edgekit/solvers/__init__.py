"""Ways to choose a codec's values: rounding to nearest, k-means."""
