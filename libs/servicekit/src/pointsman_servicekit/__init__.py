"""What every Pointsman service is built with: errors, gRPC server and client, logs, metrics, lifetimes."""
