"""Test doubles: real servers on port 0 that answer as a test has scripted them."""
