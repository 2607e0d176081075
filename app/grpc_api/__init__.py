"""The gRPC port: messages of the Open Inference Protocol enter, and leave, in the HTTP process.

What is asked goes the way of the REST routes: app.api.oip_operations, with the service's keys, limits, queue and
decoders. It needs the extra `grpc`, and is imported only with --grpc-port.
"""

import os

# gRPC's core reads them when it is imported. It would log what clients do wrong, and its handlers of forks are for
# programs that fork without exec, which this one does not.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
