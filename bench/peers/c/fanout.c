/*
 * The physical limit: a WebSocket server that does nothing but one send() for each delivery.
 *
 * It knows one list of receivers (who says "subscribe"), reads no JSON, and sends whatever else comes to all of them,
 * with a constant id and time at its end, so that its frames are as long as everybody's. Channels it does not know.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 4096, MAX_EVENTS = 512, INPUT_SIZE = 8192, READ_SIZE = 1 << 20, STAMP_ROOM = 128 };

static const char WELCOME[] = "{\"type\":\"welcome\"}";
static const char ACK[] = "{\"type\":\"ack\"}";
static const char STAMP[] =
    ",\"id\":\"00000000-0000-4000-8000-000000000000\",\"sentDateTime\":\"2026-01-01T00:00:00.000Z\"}";

struct client {
    int fd, index; /* index: its place among the receivers, -1 if it is none */
    bool open;
    uint8_t *input; /* an unfinished request or frame */
    size_t length, room;
};

static int poller;
static struct client **receivers;
static int receiver_count, receiver_room;

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* SHA-1 and base64, for the handshake (RFC 3174, RFC 4648) */

static uint32_t rotate(uint32_t word, int bits) { return word << bits | word >> (32 - bits); }

static void sha1(const uint8_t *data, size_t length, uint8_t digest[20]) {
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t padded[128] = {0}; /* enough: what is hashed here has 60 bytes */
    memcpy(padded, data, length);
    padded[length] = 0x80;
    size_t blocks = length + 9 > 64 ? 2 : 1;
    for (int i = 0; i < 8; i++) padded[blocks * 64 - 1 - (size_t)i] = (uint8_t)((uint64_t)length * 8 >> 8 * i);
    for (size_t block = 0; block < blocks; block++) {
        uint32_t w[80];
        for (int i = 0; i < 16; i++) {
            const uint8_t *at = padded + block * 64 + 4 * i;
            w[i] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
        }
        for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 ? b ^ c ^ d : i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
            uint32_t k = i < 20 ? 0x5a827999 : i < 40 ? 0x6ed9eba1 : i < 60 ? 0x8f1bbcdc : 0xca62c1d6;
            uint32_t next = rotate(a, 5) + f + e + k + w[i];
            e = d, d = c, c = rotate(b, 30), b = a, a = next;
        }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64(const uint8_t digest[20], char out[29]) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 7; i++) {
        uint32_t three = (uint32_t)digest[3 * i] << 16 | (uint32_t)digest[3 * i + 1] << 8 | (i < 6 ? digest[3 * i + 2] : 0);
        for (int j = 0; j < 4; j++) out[4 * i + j] = letters[three >> (18 - 6 * j) & 63];
    }
    out[27] = '=';
    out[28] = 0;
}

/* Sending */

static void send_bytes(struct client *client, const void *data, size_t length) {
    /* A receiver that is behind misses the message: a limit of what can be need not be a service. */
    if (send(client->fd, data, length, MSG_NOSIGNAL) < 0 && errno != EAGAIN && errno != EPIPE && errno != ECONNRESET)
        die("send");
}

static size_t write_header(uint8_t *frame, uint8_t first, size_t length) {
    frame[0] = first;
    if (length < 126) {
        frame[1] = (uint8_t)length;
        return 2;
    }
    frame[1] = 126;
    frame[2] = (uint8_t)(length >> 8);
    frame[3] = (uint8_t)length;
    return 4;
}

static void send_text(struct client *client, const char *text) {
    uint8_t frame[256];
    size_t length = strlen(text), header = write_header(frame, 0x81, length);
    memcpy(frame + header, text, length);
    send_bytes(client, frame, header + length);
}

static void fan_out(const uint8_t *text, size_t length) {
    static uint8_t frame[65536 + STAMP_ROOM];
    size_t stamped = length - 1 + sizeof STAMP - 1; /* in place of the closing brace */
    if (stamped > 65535) return;
    size_t header = write_header(frame, 0x81, stamped);
    memcpy(frame + header, text, length - 1);
    memcpy(frame + header + length - 1, STAMP, sizeof STAMP - 1);
    for (int i = 0; i < receiver_count; i++) send_bytes(receivers[i], frame, header + stamped);
}

/* Receiving */

static void subscribe(struct client *client) {
    if (receiver_count == receiver_room) {
        receiver_room = receiver_room ? 2 * receiver_room : 1024;
        receivers = realloc(receivers, sizeof *receivers * (size_t)receiver_room);
        if (!receivers) die("realloc");
    }
    client->index = receiver_count;
    receivers[receiver_count++] = client;
    send_text(client, ACK);
}

static void forget(struct client *client) {
    if (client->index >= 0) {
        struct client *last = receivers[--receiver_count];
        receivers[client->index] = last;
        last->index = client->index;
    }
    close(client->fd);
    free(client->input);
    free(client);
}

static size_t take_upgrade(struct client *client, uint8_t *data, size_t length) {
    static const char key_name[] = "Sec-WebSocket-Key: ", magic[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t *end = memmem(data, length, "\r\n\r\n", 4), *key = memmem(data, length, key_name, sizeof key_name - 1);
    if (!end || !key) return 0;
    uint8_t joined[60], digest[20];
    char accept[29], response[256];
    memcpy(joined, key + sizeof key_name - 1, 24);
    memcpy(joined + 24, magic, 36);
    sha1(joined, 60, digest);
    base64(digest, accept);
    int size = sprintf(response,
                       "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    send_bytes(client, response, (size_t)size);
    client->open = true;
    send_text(client, WELCOME);
    return (size_t)(end + 4 - data);
}

/* Takes one frame; answers its length, 0 if it is not all there, -1 if it ends the connection. */
static ssize_t take_frame(struct client *client, uint8_t *data, size_t length) {
    if (length < 6) return 0;
    size_t size = data[1] & 0x7f, header = 6;
    if (size == 127) return -1;
    if (size == 126) {
        if (length < 8) return 0;
        size = (size_t)data[2] << 8 | data[3];
        header = 8;
    }
    if (length < header + size) return 0;
    if ((data[0] & 0x0f) == 8) return -1;
    uint8_t *mask = data + header - 4, *payload = data + header;
    for (size_t i = 0; i < size; i++) payload[i] ^= mask[i & 3];
    if (memmem(payload, size, "\"subscribe\"", 11)) subscribe(client);
    else if (size) fan_out(payload, size);
    return (ssize_t)(header + size);
}

static void on_readable(struct client *client) {
    static uint8_t buffer[READ_SIZE];
    memcpy(buffer, client->input, client->length);
    ssize_t got = recv(client->fd, buffer + client->length, sizeof buffer - client->length, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        forget(client);
        return;
    }
    size_t length = client->length + (size_t)got, used = 0;
    while (used < length) {
        ssize_t taken = client->open ? take_frame(client, buffer + used, length - used)
                                     : (ssize_t)take_upgrade(client, buffer + used, length - used);
        if (taken < 0) {
            forget(client);
            return;
        }
        if (!taken) break;
        used += (size_t)taken;
    }
    client->length = length - used;
    if (client->length > client->room) {
        client->room = client->length;
        client->input = realloc(client->input, client->room);
        if (!client->input) die("realloc");
    }
    memcpy(client->input, buffer + used, client->length);
}

static void accept_all(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct client *client = calloc(1, sizeof *client);
        if (!client) die("calloc");
        client->fd = fd;
        client->index = -1;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
    }
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, BACKLOG) < 0) die("listen");
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event) < 0) die("epoll");
    for (;;) {
        struct epoll_event events[MAX_EVENTS];
        int ready = epoll_wait(poller, events, MAX_EVENTS, -1);
        if (ready < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr) on_readable(events[i].data.ptr);
            else accept_all(listener);
        }
    }
}
