"""Training: begin at learner.py, whose `step` takes lessons and gives what changed."""
