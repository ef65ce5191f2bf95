"""Changes of the weights: as records (record.py), in a log (log.py), applied in place (image.py)."""
