"""`pointsman retriever`: lists, verifies, copies, migrates and tunes the retriever's collections of documents."""
