"""Logs of real traffic, sent through the system in event time, and what it predicted of them."""
