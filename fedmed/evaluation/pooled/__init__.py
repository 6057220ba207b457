"""Numbers of one run from the hospitals' score histograms."""
