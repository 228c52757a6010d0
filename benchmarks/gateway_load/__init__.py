"""Measures the gateway's hot path beside its peers: `make bench-gateway`."""
