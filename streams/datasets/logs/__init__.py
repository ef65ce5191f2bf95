"""Logs of what was shown and clicked, read as traffic."""
