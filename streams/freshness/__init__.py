"""How long an event takes until it is served."""
