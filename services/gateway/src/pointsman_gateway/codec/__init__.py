"""Decodes requests and encodes answers: the code that the HTTP server and the gRPC server share."""
