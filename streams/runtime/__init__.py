"""What every process has around its work: health, metrics, Redis, patience in outages."""
