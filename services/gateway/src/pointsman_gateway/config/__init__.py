"""Reads the configuration's files and checks them as a whole."""
