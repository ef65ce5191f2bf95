"""Training on a plain table, and scoring one: the model against published results, without any stream."""
