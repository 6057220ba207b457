"""From a source of images to one shard per hospital."""
