"""The workers, each folder one (router: two). Begin at worker.py: what it does with a batch of records is `handle`."""
