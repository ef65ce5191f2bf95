"""Events into the user log, and joined to what was shown: begin at worker.py."""
