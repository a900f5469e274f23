#!/usr/bin/env bash
# What: registered close codes above 1011 in faye-websocket's client for Node.
# Version: faye-websocket 0.11.4 (npm), against the server of ws 8.23.0.
# Behaviour: 1012 (service restart), 1013 (try again later) and 1014 (bad gateway), which IANA has had since 2012 and
#   later, are taken for a protocol error: the application sees 1002 with the server's reason, and the server is
#   answered 1002. 1001 and codes from 3000 on come through.
# Seen: 1012 -> 1002, 1013 -> 1002, 1014 -> 1002, 1001 -> 1001, 3001 -> 3001, on both sides.
# What one would expect: the code that was sent.
# For users: 1002 says that the client is at fault and would be again, so a restart that closes with 1012 keeps such
#   clients away. A code of the range from 3000 on says the same to everybody.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund faye-websocket@0.11.4 ws@8.23.0 >/dev/null
cat > program.cjs <<'NODE'
const assert = require("node:assert");
const {WebSocketServer} = require("ws");
const Faye = require("faye-websocket");

const server = new WebSocketServer({port: 0, host: "127.0.0.1"});
const seen = {};

function once(code) {
  return new Promise((resolve) => {
    const pair = {};
    const done = () => "client" in pair && "server" in pair && resolve((seen[code] = [pair.client, pair.server]));
    server.once("connection", (socket) => {
      socket.on("close", (answer) => { pair.server = answer; done(); });
      socket.close(code, "restart");
    });
    const client = new Faye.Client(`ws://127.0.0.1:${server.address().port}/`);
    client.on("close", (event) => { pair.client = event.code; done(); });
  });
}

server.on("listening", async () => {
  for (const code of [1001, 1012, 1013, 1014, 3001]) await once(code);
  console.log(JSON.stringify(seen));
  const bad = [1002, 1002];
  assert.deepEqual(seen, {1001: [1001, 1001], 1012: bad, 1013: bad, 1014: bad, 3001: [3001, 3001]}, "it has changed");
  process.exit(0);
});
NODE
timeout 30 node program.cjs
