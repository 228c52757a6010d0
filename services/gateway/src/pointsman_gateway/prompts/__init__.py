"""Builds the prompt of a request by the strategies of its path, some of which search passages with the retriever."""
