"""The workers of the router: rewards and learn."""
