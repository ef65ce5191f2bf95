"""Which plan for this request, at what price: value model, exploration, budget, reward windows."""
