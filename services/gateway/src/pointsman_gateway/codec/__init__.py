"""The parts of decoding requests and encoding answers that the HTTP and the gRPC server share."""
