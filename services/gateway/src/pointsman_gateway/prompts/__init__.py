"""Builds the prompt of a request by the strategies of its path; and the client of the retriever."""
