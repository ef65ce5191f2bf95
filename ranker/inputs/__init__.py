"""From requests to batches of rows and numbers, and the tables and key maps that the rows are of."""
