// Looks a name up with dns.lookup() or dns.resolve4() and reports as testbed-app does.
// Arguments: lookup|resolve4 NAME.
const dns = require("node:dns").promises;

const [way, name] = process.argv.slice(1);
const now = () => process.hrtime.bigint();

// BigInt has no JSON form; the numbers stay exact when they are written out as they are.
function report(event, fields) {
  const parts = Object.entries({ event, index: 0, ...fields }).map(
    ([key, value]) =>
      `${JSON.stringify(key)}:${typeof value === "bigint" ? value : JSON.stringify(value)}`,
  );
  process.stdout.write(`{${parts.join(",")}}\n`);
}

const start = now();
report("looking-up", { name, start_ns: start });
const found =
  way === "resolve4"
    ? dns.resolve4(name)
    : dns.lookup(name, { all: true }).then((all) => all.map((one) => one.address));
found.then(
  (addresses) => report("lookup", { start_ns: start, end_ns: now(), outcome: "ok", addresses }),
  (error) => {
    report("lookup", { start_ns: start, end_ns: now(), outcome: error.code });
    process.exitCode = 1;
  },
);
