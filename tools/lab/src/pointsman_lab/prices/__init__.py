"""Imports prices of models from other price tables into the configuration."""
