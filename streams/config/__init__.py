"""The configuration of one deployment: recipes and settings."""
