"""The worker processes: each file is one, and holds the glue between a loop and the part that does the work."""
