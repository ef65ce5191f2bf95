"""The model tiers: features, Wukong Turbo, training, weight updates, snapshots, scoring engine."""
