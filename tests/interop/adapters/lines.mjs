// Words between the test and an adapter; lines.py tells them.
import { createRequire } from "node:module";
import process from "node:process";
import { createInterface } from "node:readline";

const [url, mode] = process.argv.slice(2);
export const URL = url;
export const DEFLATE = mode === "deflate";
export const load = (name) => createRequire(`${process.env.MODULES}/`)(name);

export const say = (word, ...rest) => process.stdout.write(`${[word, ...rest].join(" ")}\n`);

export function obey(text, close) {
  const orders = createInterface({ input: process.stdin });
  orders.on("line", (line) => {
    try {
      if (line.startsWith("text ")) text(line.slice(5));
      else close();
    } catch (error) {
      say("error", error);
    }
  });
  orders.on("close", () => process.exit());
}

// A class that is that of browsers.
export function speak(WebSocket) {
  const socket = new WebSocket(URL);
  socket.onopen = () => say("open");
  socket.onmessage = ({ data }) => say("text", data);
  socket.onerror = ({ message }) => say("ended", message);
  socket.onclose = ({ code, reason }) => say("close", code, reason);
  obey((text) => socket.send(text), () => socket.close(1000, "bye"));
}
