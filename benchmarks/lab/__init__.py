"""The quality laboratory: whole streams as arrays, and the product's own learner on them, without its wires."""
