"""The Wukong Turbo tiers: a request batch and its embeddings in, logits out. Knows nothing of tables or Kafka."""
