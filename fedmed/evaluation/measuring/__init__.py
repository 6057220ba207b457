"""Every metric of many weightings of the same images at once."""
