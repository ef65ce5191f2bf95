"""From requests to batches of rows and numbers."""
