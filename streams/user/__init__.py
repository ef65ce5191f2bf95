"""`tiderank user`: what is stored of one user, shown, removed, or put together again."""
