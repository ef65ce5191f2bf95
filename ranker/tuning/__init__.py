"""Measurements that a choice of size, form or precision rests on; the commands are in streams/tuning."""
