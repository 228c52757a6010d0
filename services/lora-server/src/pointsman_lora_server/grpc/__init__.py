"""The gRPC API: servicers that convert, validate and delegate."""
