"""Load: requests at a given rate, whatever comes back, and how long each took from when it was due."""
