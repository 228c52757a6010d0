"""The HTTP server of the gateway: the APIs of OpenAI and Anthropic, the gateway's own routes, and the console."""
