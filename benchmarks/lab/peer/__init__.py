"""What a good engineer would write in a day instead of ranker/ and its workers: see benchmarks/peer.py."""
