"""Changes of the weights, as records and as bytes."""
