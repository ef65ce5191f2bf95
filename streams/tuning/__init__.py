"""Commands that choose a model's size, form and precision by measurement."""
