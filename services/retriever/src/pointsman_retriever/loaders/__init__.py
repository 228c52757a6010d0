"""Reads files into text."""
