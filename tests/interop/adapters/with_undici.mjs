// undici's class, for Node.
import { load, speak } from "./lines.mjs";

speak(load("undici").WebSocket);
