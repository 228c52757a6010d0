"""The retriever: stores collections of documents and finds their passages by meaning and by word."""
