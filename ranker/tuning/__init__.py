"""Measurements that choose a model's size, form and precision."""
