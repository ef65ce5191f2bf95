"""What is done to a house under chaos (benchmarks/chaos.py), and the house that bears it."""
