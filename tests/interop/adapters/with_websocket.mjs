// websocket, for Node.
import { URL, load, obey, say } from "./lines.mjs";

const client = new (load("websocket").client)();
client.on("connectFailed", (error) => say("error", error));
client.on("connect", (socket) => {
  say("open");
  socket.on("message", ({ utf8Data }) => say("text", utf8Data));
  socket.on("error", (error) => say("ended", error));
  socket.on("close", (code, reason) => say("close", code, reason));
  obey((text) => socket.sendUTF(text), () => socket.close(1000, "bye"));
});
client.connect(URL);
