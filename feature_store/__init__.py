"""The user log in Redis: append, read as of a position, join on the fly."""
