// The service's logic on `ws`, as its documentation has it: channels, subIds, announce; nothing else.
"use strict";

const { randomUUID } = require("node:crypto");
const { createServer } = require("node:http");
const { WebSocketServer } = require("ws");

const BACKLOG = 2048;
const channels = new Map(); // channel -> subId -> sockets

function encode(message) {
  return JSON.stringify({ ...message, id: randomUUID(), sentDateTime: new Date().toISOString() });
}

function subscribe(socket, { channel, subId }) {
  if (!channels.has(channel)) channels.set(channel, new Map());
  const subscriptions = channels.get(channel);
  if (!subscriptions.has(subId)) subscriptions.set(subId, new Set());
  subscriptions.get(subId).add(socket);
  socket.subscriptions.push([channel, subId]);
  socket.send(encode({ type: "ack", channel, subId, numConnections: subscriptions.get(subId).size }));
}

function announce(sender, message) {
  const receivers = channels.get(message.channel)?.get(message.subId);
  if (!receivers) return;
  const data = Buffer.from(encode(message)); // encoded once, not for each receiver
  for (const socket of receivers) if (socket !== sender) socket.send(data, { binary: false });
}

function forget(socket) {
  for (const [channel, subId] of socket.subscriptions) {
    const subscriptions = channels.get(channel);
    const receivers = subscriptions?.get(subId);
    receivers?.delete(socket);
    if (receivers?.size === 0) subscriptions.delete(subId);
    if (subscriptions?.size === 0) channels.delete(channel);
  }
}

const server = createServer();
const sockets = new WebSocketServer({ server, path: "/ws", perMessageDeflate: true });

sockets.on("connection", (socket) => {
  socket.subscriptions = [];
  socket.on("error", () => {});
  socket.on("close", () => forget(socket));
  socket.on("message", (data) => {
    const message = JSON.parse(data);
    if (message.type === "subscribe") subscribe(socket, message);
    else if (message.type === "announce") announce(socket, message);
  });
  socket.send(encode({ type: "welcome", numConnections: sockets.clients.size, connectionId: randomUUID() }));
});

server.listen(Number(process.argv[2]), "127.0.0.1", BACKLOG);
