"""Readers of providers' exports of usage and costs, one for each format."""
