"""What keeps bad updates from being served: checks.py of weights and labels, detector.py over time."""
