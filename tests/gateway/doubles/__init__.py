"""Test doubles: real servers on free ports that answer as scripted by a test."""
