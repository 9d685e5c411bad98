// Dials with net.connect() and reports as testbed-app does. Arguments: ADDRESS PORT [PATH].
const net = require("node:net");

const [address, port, path] = process.argv.slice(1);
const now = () => process.hrtime.bigint();

// BigInt has no JSON form; the numbers stay exact when they are written out as they are.
function report(event, fields) {
  const parts = Object.entries({ event, index: 0, ...fields }).map(
    ([key, value]) =>
      `${JSON.stringify(key)}:${typeof value === "bigint" ? value : JSON.stringify(value)}`,
  );
  process.stdout.write(`{${parts.join(",")}}\n`);
}

function matchesPattern(body, length) {
  if (body.length !== length) return false;
  for (let i = 0; i < length; i++) {
    if (body[i] !== ((i * 131 + (i >> 8) * 17 + (i >> 16) * 29) & 0xff)) return false;
  }
  return true;
}

const start = now();
report("connecting", { to: `${address}:${port}`, start_ns: start });
const socket = net.connect({ host: address, port: Number(port) });

socket.once("error", (error) => {
  report("connect", { start_ns: start, end_ns: now(), outcome: error.code });
  process.exitCode = 1;
});

socket.once("connect", () => {
  report("connect", { start_ns: start, end_ns: now(), outcome: "connected" });
  if (!path) {
    socket.end();
    return;
  }
  const chunks = [];
  socket.on("data", (chunk) => chunks.push(chunk));
  socket.on("end", () => {
    const all = Buffer.concat(chunks);
    const split = all.indexOf("\r\n\r\n");
    const status = Number(all.toString("latin1", 0, split).split(" ")[1]);
    const body = all.subarray(split + 4);
    let ok = status === 200;
    if (path.startsWith("/bytes/")) {
      ok = ok && matchesPattern(body, Number(path.slice("/bytes/".length)));
    }
    report("body", { status, bytes: body.length, ok, end_ns: now() });
    process.exitCode = ok ? 0 : 1;
  });
  const host = address.includes(":") ? `[${address}]` : address;
  socket.write(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
});
