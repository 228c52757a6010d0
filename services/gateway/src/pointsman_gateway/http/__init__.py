"""The HTTP interface of the gateway: OpenAI's API, Pointsman's own routes, and the console."""
