// ws, for Node.
import { DEFLATE, URL, load, obey, say } from "./lines.mjs";

const socket = new (load("ws"))(URL, { perMessageDeflate: DEFLATE });
socket.on("open", () => say("open"));
socket.on("message", (data) => say("text", data));
socket.on("error", (error) => say("ended", error));
socket.on("close", (code, reason) => say("close", code, reason));
obey((text) => socket.send(text), () => socket.close(1000, "bye"));
