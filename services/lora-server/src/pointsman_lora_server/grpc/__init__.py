"""The gRPC API: `servicers` delegates the calls, and `messages` converts and checks the protobuf messages."""
