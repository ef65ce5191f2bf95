"""Tiers as compiled graphs: begin at graph.py, which says what is compiled."""
