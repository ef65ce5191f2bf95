"""The worker that learns and publishes updates."""
