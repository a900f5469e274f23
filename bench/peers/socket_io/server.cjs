// The service's logic on Socket.IO: a room for each subscription. The type is the event's name.
"use strict";

const { randomUUID } = require("node:crypto");
const { createServer } = require("node:http");
const { Server } = require("socket.io");

const BACKLOG = 2048;

function stamped(message) {
  return { ...message, id: randomUUID(), sentDateTime: new Date().toISOString() };
}

function room({ channel, subId }) {
  return JSON.stringify([channel, subId]);
}

const server = createServer();
const io = new Server(server, {
  transports: ["websocket"],
  serveClient: false,
  pingInterval: 3600000, // its heartbeat would come in between; nobody else pings while it is measured
  perMessageDeflate: { threshold: 0 }, // off by default, and from 1,024 bytes
});

io.on("connection", (socket) => {
  socket.on("subscribe", (message) => {
    socket.join(room(message));
    const numConnections = io.sockets.adapter.rooms.get(room(message)).size;
    socket.emit("ack", stamped({ channel: message.channel, subId: message.subId, numConnections }));
  });
  socket.on("announce", (message) => socket.to(room(message)).emit("announce", stamped(message)));
  socket.emit("welcome", stamped({ numConnections: io.engine.clientsCount, connectionId: randomUUID() }));
});

server.listen(Number(process.argv[2]), "127.0.0.1", BACKLOG);
