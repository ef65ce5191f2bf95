"""What lies on the topics: messages, their bytes, records, signatures. Knows no client."""
