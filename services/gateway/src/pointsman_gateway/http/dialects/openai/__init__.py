"""OpenAI's endpoints: decoding of their requests, and encoding of their answers."""
