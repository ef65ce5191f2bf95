"""Messages that nobody should send, and what becomes of them: `benchmarks.fuzz` and the tests share it."""
