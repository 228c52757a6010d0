"""Reads files that clients send, such as PDF and HTML, into text."""
