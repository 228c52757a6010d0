"""Stores that several retrievers share. They hold texts, vectors and counts, so a retriever builds no index of them at
start.
"""
