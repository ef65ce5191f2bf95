"""Tiers on plain tables: columns become candidate slots, the rows of a minibatch the candidates of one request."""
