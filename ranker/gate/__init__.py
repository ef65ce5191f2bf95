"""What keeps bad updates from being served."""
