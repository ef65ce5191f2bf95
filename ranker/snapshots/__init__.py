"""Whole models on a store."""
