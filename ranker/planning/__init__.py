"""How large the embedding tables should be: what a stream of keys shows, and sizes under a memory budget."""
