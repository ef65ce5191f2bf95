"""The worker that ranks."""
