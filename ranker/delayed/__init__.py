"""Learning from conversions that come days after their clicks."""
