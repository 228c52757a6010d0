"""Measures the gateway's request path and compares it with other gateways: `make bench-gateway`."""
