"""Looks a name up with socket.getaddrinfo() and reports as testbed-app does. Argument: NAME."""
import json
import socket
import sys
import time


def report(event, **fields):
    print(json.dumps({"event": event, "index": 0, **fields}), flush=True)


start = time.monotonic_ns()
report("looking-up", name=sys.argv[1], start_ns=start)
try:
    found = socket.getaddrinfo(sys.argv[1], 80, type=socket.SOCK_STREAM)
    fields = {"outcome": "ok", "addresses": [entry[4][0] for entry in found]}
except socket.gaierror as error:
    fields = {"outcome": str(error)}
report("lookup", start_ns=start, end_ns=time.monotonic_ns(), **fields)
sys.exit(fields["outcome"] != "ok")
