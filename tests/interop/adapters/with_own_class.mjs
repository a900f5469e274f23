// The class of sockets that Node, Bun and Deno have themselves.
import { speak } from "./lines.mjs";

speak(globalThis.WebSocket);
