"""The gRPC API of the lora-server: `servicers` delegates the calls, and `messages` converts and checks the protobuf
messages.
"""
