"""Manages adapter versions (immutable LoRA weights): registering, checking, loading, promoting, and placing them on
engines.
"""
