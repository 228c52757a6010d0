"""Code that every Pointsman service uses: errors, gRPC server and client, logs, metrics, lifetimes."""
