"""Examples in, changes of the weights out: begin at worker.py, whose step is `_step`."""
