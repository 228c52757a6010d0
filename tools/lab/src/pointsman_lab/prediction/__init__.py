"""Learns the options of the policy `predicted` from scores and costs of paths, and measures what its choices gain."""
