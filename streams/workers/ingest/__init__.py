"""The worker that stores events and joins them."""
