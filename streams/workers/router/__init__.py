"""What teaches the router: rewards tells what each decision earned, learn makes a model of it.

The router itself runs where it serves, in workers/rank/routing.py.
"""
