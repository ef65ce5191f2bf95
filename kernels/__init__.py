"""Triton kernels, each beside a plain reference with the same contract."""
