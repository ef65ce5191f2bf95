"""Requests in, ranked ads out: begin at worker.py, whose phases are in ranking.py."""
