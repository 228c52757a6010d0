"""For all tests: gRPC's own library tells of connections that end, on standard error, where tests read other things."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
