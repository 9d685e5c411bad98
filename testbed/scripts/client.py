"""Dials with asyncio and reports as testbed-app does. Arguments: ADDRESS PORT [PATH]."""
import asyncio
import errno
import json
import sys
import time


def report(event, **fields):
    print(json.dumps({"event": event, "index": 0, **fields}), flush=True)


def pattern(length):
    return bytes(
        (i * 131 + (i >> 8) * 17 + (i >> 16) * 29) & 0xFF for i in range(length)
    )


async def main(address, port, path=None):
    start = time.monotonic_ns()
    report("connecting", to=f"{address}:{port}", start_ns=start)
    try:
        reader, writer = await asyncio.open_connection(address, int(port))
    except OSError as error:
        # asyncio folds several addresses' errors into one without a number; here it is one.
        outcome = errno.errorcode.get(error.errno, str(error))
        report("connect", start_ns=start, end_ns=time.monotonic_ns(), outcome=outcome)
        return 1
    report("connect", start_ns=start, end_ns=time.monotonic_ns(), outcome="connected")
    ok = True
    if path:
        host = f"[{address}]" if ":" in address else address
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        await writer.drain()
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        ok = status == 200
        if path.startswith("/bytes/"):
            ok = ok and body == pattern(int(path.removeprefix("/bytes/")))
        report("body", status=status, bytes=len(body), ok=ok, end_ns=time.monotonic_ns())
    writer.close()
    return 0 if ok else 1


sys.exit(asyncio.run(main(*sys.argv[1:])))
