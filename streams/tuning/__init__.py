"""Commands that choose a model's size, form and precision; what they measure with is in ranker/tuning."""
