"""A simulated ad system whose truth is known: it sends requests, shows what comes back, clicks and buys."""
