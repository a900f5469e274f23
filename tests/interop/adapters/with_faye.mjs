// faye-websocket, for Node.
import { DEFLATE, URL, load, obey, say } from "./lines.mjs";

const extensions = DEFLATE ? [load("permessage-deflate")] : [];
const socket = new (load("faye-websocket").Client)(URL, [], { extensions, maxLength: 2 ** 21 });
socket.on("open", () => say("open"));
socket.on("message", ({ data }) => say("text", data));
socket.on("error", ({ message }) => say("ended", message));
socket.on("close", ({ code, reason }) => say("close", code, reason));
obey((text) => socket.send(text), () => socket.close(1000, "bye"));
