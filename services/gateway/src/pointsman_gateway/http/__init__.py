"""The HTTP server of the gateway: OpenAI's API, the gateway's own routes, and the console."""
