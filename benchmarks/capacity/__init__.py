"""Measures what one engine does, and fits the figures by which `pointsman capacity` plans."""
