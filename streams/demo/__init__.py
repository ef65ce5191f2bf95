"""`tiderank demo`: the whole system on one machine, in traffic, before one's eyes."""

from streams.demo.run import Plan, run_demo

__all__ = ["Plan", "run_demo"]
