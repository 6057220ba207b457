"""The only part of fedmed that knows Flower: messages, an in-process grid, launching."""
