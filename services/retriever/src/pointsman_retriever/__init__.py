"""The retriever: collections of documents, found by meaning and by word."""
