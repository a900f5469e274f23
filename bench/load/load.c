/*
 * The load generator: many WebSocket clients and one publisher, in one thread on epoll.
 *
 * It is told what to do line by line on its standard input and answers each line with one of its own:
 *
 *   message TEXT                    one of the texts that the publisher sends in turn; @CHANNEL@ and @SEQ@ in it are
 *                                   replaced, each by 8 digits
 *   forget                          the texts
 *   open COUNT CHANNELS AT_ONCE     connect so many more subscribers, so many of them at a time  -> opened NS DEFLATED
 *   stall COUNT                     the last so many subscribers read no more                    -> stalled
 *   run MESSAGES BURST WINDOW MS    publish; in bursts, so many of them under way, for MS at most
 *                                   -> ran NS DELIVERIES MISSING BYTES P50 P90 P99 MAX (latencies in nanoseconds)
 *   drop                            close all subscribers                                        -> dropped
 *
 * A subscriber's n-th frame is the n-th message of its channel: counting frames tells which message it is, so that
 * compressed frames need not be inflated. One subscriber's uncompressed frames are read, to prove it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_STEPS = 8,
    MAX_TEXTS = 256,
    MAX_EVENTS = 512,
    MAX_RESPONSE = 4096,
    KEPT = 512,           /* bytes of a frame that are kept: a control frame is at most 125 long */
    READ_SIZE = 1 << 18,
    LINE_SIZE = 1 << 16,
    BUCKETS = 1 << 21,    /* microseconds of latency */
    OPEN_TIMEOUT_MS = 60000,
    DROP_TIMEOUT_MS = 10000,
};

enum state { CONNECTING, UPGRADING, OPEN, CLOSED };

/* What a client says after so many frames came, and after how many it is ready. */
struct script {
    int count;
    int after[MAX_STEPS];
    const char *text[MAX_STEPS];
    int ready_after;
};

struct client {
    int fd;
    enum state state;
    bool stalled, ready, deflates;
    int channel;
    int step;
    uint64_t frames;          /* data messages that came */
    uint64_t delivered;       /* those of them that were published */
    /* the frame that is being read */
    uint8_t header[10];
    int header_length;
    uint64_t payload_length, payload_left;
    uint8_t kept[KEPT];
    int kept_length;
    char *response;
    int response_length;
    char *unsent;
    size_t unsent_length;
    const struct script *script;
};

struct message {
    uint64_t sent_at;
    int missing;
};

static const char *host_path = "/ws";
static int port;
static bool offer_deflate;
static struct script subscriber_script = {.ready_after = 0}, publisher_script = {.ready_after = 0};

static int poller;
static struct client **clients;
static int client_count, stalled_count, ready_count, connecting_count, open_count, deflating_count, channel_count = 1;
static struct client *publisher;
static char *texts[MAX_TEXTS];
static int text_count;
static uint8_t read_buffer[READ_SIZE];

/* The run that goes on. */
static bool running;
static struct message *messages;
static int message_count, burst, window;
static int sent_messages, finished_messages;
static unsigned sent_before; /* in other runs: texts and their numbers go on, so that nobody's compressor has seen them */
static uint64_t deliveries, wire_bytes, largest_latency;
static uint32_t *latencies;
static uint64_t first_sequence; /* of this run, in its channel numbering */

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("error ");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    exit(1);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) fail("out of memory");
    return memory;
}

/* Writing */

static void watch(struct client *client, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(poller, operation, client->fd, &event) < 0) fail("epoll_ctl: %s", strerror(errno));
}

static void flush(struct client *client) {
    while (client->unsent_length) {
        ssize_t written = send(client->fd, client->unsent, client->unsent_length, MSG_NOSIGNAL);
        if (written < 0 && errno == EAGAIN) return;
        if (written < 0) fail("send: %s", strerror(errno));
        client->unsent_length -= (size_t)written;
        memmove(client->unsent, client->unsent + written, client->unsent_length);
    }
    free(client->unsent);
    client->unsent = NULL;
    watch(client, EPOLL_CTL_MOD, EPOLLIN);
}

static void write_bytes(struct client *client, const void *data, size_t length) {
    ssize_t written = 0;
    if (!client->unsent) {
        written = send(client->fd, data, length, MSG_NOSIGNAL);
        if (written < 0 && errno != EAGAIN) {
            if (client->state == OPEN && client->step == -1) return; /* closing: the server may be gone */
            fail("send: %s", strerror(errno));
        }
        if (written < 0) written = 0;
        if ((size_t)written == length) return;
        watch(client, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    }
    size_t rest = length - (size_t)written;
    client->unsent = realloc(client->unsent, client->unsent_length + rest);
    if (!client->unsent) fail("out of memory");
    memcpy(client->unsent + client->unsent_length, (const char *)data + written, rest);
    client->unsent_length += rest;
}

/* A client's frame into `out`, which has room for 14 bytes more than the payload; answers its length. */
static size_t make_frame(uint8_t *out, uint8_t opcode, const uint8_t *payload, size_t length) {
    static const uint8_t mask[4] = {0x5a, 0x13, 0xc7, 0x8e};
    size_t at = 0;
    out[at++] = 0x80 | opcode;
    if (length < 126) {
        out[at++] = 0x80 | (uint8_t)length;
    } else if (length < 65536) {
        out[at++] = 0x80 | 126;
        out[at++] = (uint8_t)(length >> 8);
        out[at++] = (uint8_t)length;
    } else {
        out[at++] = 0x80 | 127;
        for (int shift = 56; shift >= 0; shift -= 8) out[at++] = (uint8_t)(length >> shift);
    }
    memcpy(out + at, mask, 4);
    at += 4;
    for (size_t i = 0; i < length; i++) out[at + i] = payload[i] ^ mask[i & 3];
    return at + length;
}

static void write_frame(struct client *client, uint8_t opcode, const void *payload, size_t length) {
    uint8_t *frame = allocate(length + 14, 1);
    write_bytes(client, frame, make_frame(frame, opcode, payload, length));
    free(frame);
}

/* A text with its placeholders filled in; the length does not change with the numbers. */
static size_t fill(char *out, const char *text, unsigned channel, unsigned sequence) {
    char *at = out;
    while (*text) {
        if (!strncmp(text, "@CHANNEL@", 9)) {
            at += sprintf(at, "%08u", channel);
            text += 9;
        } else if (!strncmp(text, "@SEQ@", 5)) {
            at += sprintf(at, "%08u", sequence);
            text += 5;
        } else {
            *at++ = *text++;
        }
    }
    *at = 0;
    return (size_t)(at - out);
}

/* Connecting */

static void take_steps(struct client *client) {
    while (client->step < client->script->count && client->frames >= (uint64_t)client->script->after[client->step]) {
        const char *text = client->script->text[client->step++];
        char *filled = allocate(2 * strlen(text) + 16, 1);
        size_t length = fill(filled, text, (unsigned)client->channel, 0);
        write_frame(client, 1, filled, length);
        free(filled);
    }
    if (!client->ready && client->frames >= (uint64_t)client->script->ready_after) {
        client->ready = true;
        ready_count++;
    }
}

static struct client *start_connecting(const struct script *script, int channel) {
    struct client *client = allocate(1, sizeof *client);
    client->script = script;
    client->channel = channel;
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0) fail("socket: %s", strerror(errno));
    int one = 1;
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(client->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    connecting_count++;
    watch(client, EPOLL_CTL_ADD, EPOLLOUT);
    return client;
}

/* The upgrade as Chrome asks for it, so that servers have as many headers to read as they have from browsers. */
static void ask_for_upgrade(struct client *client) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) fail("connect: %s", strerror(error));
    char request[2048];
    int length = snprintf(
        request, sizeof request,
        "GET %s HTTP/1.1\r\n"
        "Host: localhost:%d\r\n"
        "Connection: Upgrade\r\n"
        "Pragma: no-cache\r\n"
        "Cache-Control: no-cache\r\n"
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n"
        "Upgrade: websocket\r\n"
        "Origin: http://localhost:%d\r\n"
        "Sec-WebSocket-Version: 13\r\n"
        "Accept-Encoding: gzip, deflate, br, zstd\r\n"
        "Accept-Language: en-US,en;q=0.9\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "%s\r\n",
        host_path, port, port,
        offer_deflate && client->script == &subscriber_script
            ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" : "");
    client->state = UPGRADING;
    client->response = allocate(MAX_RESPONSE, 1);
    watch(client, EPOLL_CTL_MOD, EPOLLIN);
    write_bytes(client, request, (size_t)length);
}

/* Reads the response; answers how many of these bytes belong to it. */
static size_t take_response(struct client *client, const uint8_t *data, size_t length) {
    size_t room = (size_t)(MAX_RESPONSE - 1 - client->response_length);
    size_t taken = length < room ? length : room;
    memcpy(client->response + client->response_length, data, taken);
    int before = client->response_length;
    client->response_length += (int)taken;
    client->response[client->response_length] = 0;
    char *end = strstr(client->response, "\r\n\r\n");
    if (!end) {
        if (client->response_length == MAX_RESPONSE - 1) fail("the response is too long");
        return taken;
    }
    if (strncmp(client->response, "HTTP/1.1 101", 12)) {
        client->response[strcspn(client->response, "\r\n")] = 0;
        fail("no upgrade: %s", client->response);
    }
    end += 4;
    char kept = *end;
    *end = 0;
    client->deflates = strcasestr(client->response, "permessage-deflate") != NULL;
    *end = kept;
    deflating_count += client->deflates;
    size_t used = (size_t)(end - client->response - before);
    free(client->response);
    client->response = NULL;
    client->state = OPEN;
    connecting_count--;
    open_count++;
    take_steps(client);
    return used;
}

/* Receiving */

static void delivered(struct client *client, uint64_t at) {
    /* Channels take turns, so the n-th message of a channel is this one of all: */
    uint64_t number = (client->delivered - first_sequence) * (uint64_t)channel_count + (uint64_t)client->channel;
    client->delivered++;
    if (!running || number >= (uint64_t)sent_messages) fail("a message came that was not sent");
    struct message *message = &messages[number];
    if (client == clients[0] && !client->deflates) {
        char mark[32];
        sprintf(mark, "#%08u", sent_before + (unsigned)number);
        if (!memmem(client->kept, (size_t)client->kept_length, mark, 9)) fail("message %s is missing or out of order", mark);
    }
    uint64_t latency = at - message->sent_at;
    uint64_t bucket = latency / 1000;
    latencies[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    if (latency > largest_latency) largest_latency = latency;
    deliveries++;
    if (--message->missing == 0) finished_messages++;
}

static void take_frame(struct client *client, uint64_t at) {
    uint8_t opcode = client->header[0] & 0x0f;
    if (opcode == 9) {
        write_frame(client, 10, client->kept, (size_t)client->kept_length);
        return;
    }
    if (opcode == 8) {
        if (client->step != -1 && !client->stalled)
            fail("the server closed a socket with %d", client->kept_length > 1 ? client->kept[0] << 8 | client->kept[1] : 0);
        return;
    }
    if (opcode == 10 || !(client->header[0] & 0x80)) return; /* a message counts when its last frame came */
    if (client->payload_length == 1 && client->kept[0] == '2') {
        write_frame(client, 1, "3", 1); /* Engine.IO's ping and pong */
        return;
    }
    client->frames++;
    if (!client->ready) {
        take_steps(client);
        return;
    }
    if (client != publisher) {
        wire_bytes += (uint64_t)client->header_length + client->payload_length;
        delivered(client, at);
    }
}

/* The header's length as far as it is known. */
static int header_size(const struct client *client) {
    if (client->header_length < 2) return 2;
    int length = client->header[1] & 0x7f;
    return length == 127 ? 10 : length == 126 ? 4 : 2;
}

static void take_bytes(struct client *client, const uint8_t *data, size_t length) {
    uint64_t at = now_ns();
    if (client->state == UPGRADING) {
        size_t used = take_response(client, data, length);
        data += used;
        length -= used;
    }
    while (length) {
        while (length && client->header_length < header_size(client)) {
            client->header[client->header_length++] = *data++;
            length--;
            if (client->header_length >= 2 && client->header_length == header_size(client)) {
                uint64_t size = client->header[1] & 0x7f;
                if (size >= 126) {
                    size = 0;
                    for (int i = 2; i < client->header_length; i++) size = size << 8 | client->header[i];
                }
                client->payload_length = client->payload_left = size;
                client->kept_length = 0;
            }
        }
        if (client->header_length < 2 || client->header_length < header_size(client)) return;
        size_t part = length < client->payload_left ? length : (size_t)client->payload_left;
        size_t room = (size_t)(KEPT - client->kept_length);
        size_t kept = part < room ? part : room;
        if (kept && (client == clients[0] || client->payload_length <= 125)) {
            memcpy(client->kept + client->kept_length, data, kept);
            client->kept_length += (int)kept;
        }
        data += part;
        length -= part;
        client->payload_left -= part;
        if (client->payload_left) return;
        take_frame(client, at);
        client->header_length = 0;
    }
}

static void close_client(struct client *client) {
    if (client->state == CLOSED) return;
    client->state = CLOSED;
    open_count--;
    close(client->fd);
}

static void on_readable(struct client *client) {
    ssize_t length = recv(client->fd, read_buffer, sizeof read_buffer, 0);
    if (length < 0 && errno == EAGAIN) return;
    if (length > 0) {
        take_bytes(client, read_buffer, (size_t)length);
    } else if (client->step == -1) {
        close_client(client);
    } else {
        fail("the server cut a connection: %s", length ? strerror(errno) : "end of stream");
    }
}

/* One look at all sockets. Answers whether a command waits. */
static bool turn(int timeout_ms) {
    struct epoll_event events[MAX_EVENTS];
    int count = epoll_wait(poller, events, MAX_EVENTS, timeout_ms);
    if (count < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
    bool command = false;
    for (int i = 0; i < count; i++) {
        struct client *client = events[i].data.ptr;
        if (!client) {
            command = true;
        } else if (client->state == CONNECTING) {
            ask_for_upgrade(client);
        } else if (client->state != CLOSED) {
            if (events[i].events & EPOLLOUT) flush(client);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_readable(client);
        }
    }
    return command;
}

/* Commands */

static void command_open(int count, int channels, int at_once) {
    uint64_t start = now_ns(), deadline = start + OPEN_TIMEOUT_MS * 1000000ull;
    channel_count = channels;
    clients = realloc(clients, sizeof *clients * (size_t)(client_count + count));
    if (!clients) fail("out of memory");
    int target = ready_count + count;
    /* All that are to come at once are asked for before any is answered: this is what a storm is. */
    for (int started = 0; ready_count < target;) {
        while (started < count && started - (count - (target - ready_count)) < at_once) {
            clients[client_count] = start_connecting(&subscriber_script, client_count % channels);
            client_count++;
            started++;
        }
        turn(1000);
        if (now_ns() > deadline) fail("%d of %d sockets were not ready in time", target - ready_count, count);
    }
    printf("opened %llu %d\n", (unsigned long long)(now_ns() - start), deflating_count);
}

static void command_stall(int count) {
    for (int i = 0; i < count; i++) {
        struct client *client = clients[client_count - 1 - stalled_count];
        client->stalled = true;
        stalled_count++;
        epoll_ctl(poller, EPOLL_CTL_DEL, client->fd, NULL);
        int little = 4096; /* what the kernel holds for it is not what is measured */
        setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
    }
    printf("stalled\n");
}

static int receivers_of(int channel) {
    int active = client_count - stalled_count;
    return active / channel_count + (channel < active % channel_count);
}

static void publish_burst(uint8_t *frames, char *text) {
    size_t length = 0;
    int first = sent_messages;
    for (int i = 0; i < burst && sent_messages < message_count; i++, sent_messages++) {
        unsigned channel = (unsigned)(sent_messages % channel_count);
        unsigned number = sent_before + (unsigned)sent_messages;
        size_t size = fill(text, texts[number % (unsigned)text_count], channel, number);
        length += make_frame(frames + length, 1, (uint8_t *)text, size);
        messages[sent_messages].missing = receivers_of((int)channel);
    }
    uint64_t at = now_ns();
    for (int i = first; i < sent_messages; i++) messages[i].sent_at = at;
    write_bytes(publisher, frames, length);
}

/* The latency, in nanoseconds, that such a part of all deliveries did not exceed. */
static uint64_t percentile(double part) {
    uint64_t wanted = (uint64_t)((double)deliveries * part), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += latencies[i];
        if (seen > wanted) return (uint64_t)i * 1000 + 500;
    }
    return largest_latency;
}

static void command_run(int count, int in_burst, int under_way, int timeout_ms) {
    if (!text_count || !client_count) fail("there is nothing to send, or nobody to send it to");
    message_count = count / channel_count * channel_count; /* so that each channel gets as many */
    burst = in_burst;
    window = under_way;
    sent_before += (unsigned)sent_messages;
    sent_messages = finished_messages = 0;
    deliveries = wire_bytes = largest_latency = 0;
    first_sequence = clients[0]->delivered;
    messages = allocate((size_t)message_count, sizeof *messages);
    latencies = allocate(BUCKETS, sizeof *latencies);
    size_t room = 0;
    for (int i = 0; i < text_count; i++)
        if (strlen(texts[i]) > room) room = strlen(texts[i]);
    room = 2 * room + 64;
    char *text = allocate(room, 1);
    uint8_t *frames = allocate(room * (size_t)burst, 1);
    uint64_t expected = 0;
    for (int i = 0; i < message_count; i++) expected += (uint64_t)receivers_of(i % channel_count);
    running = true;
    uint64_t start = now_ns(), deadline = start + (uint64_t)timeout_ms * 1000000u;
    while (finished_messages < message_count) {
        while (sent_messages < message_count && sent_messages - finished_messages <= (window - 1) * burst)
            publish_burst(frames, text);
        turn(100);
        if (now_ns() > deadline) break;
    }
    uint64_t took = now_ns() - start;
    running = false;
    printf("ran %llu %llu %llu %llu %llu %llu %llu %llu\n", (unsigned long long)took, (unsigned long long)deliveries,
           (unsigned long long)(expected - deliveries), (unsigned long long)wire_bytes,
           (unsigned long long)percentile(0.5), (unsigned long long)percentile(0.9),
           (unsigned long long)percentile(0.99), (unsigned long long)largest_latency);
    free(messages);
    free(latencies);
    free(text);
    free(frames);
}

static void command_drop(void) {
    static const uint8_t normal[2] = {0x03, 0xe8};
    uint64_t deadline = now_ns() + DROP_TIMEOUT_MS * 1000000ull;
    for (int i = 0; i < client_count; i++) {
        struct client *client = clients[i];
        client->step = -1; /* from now on it may end */
        if (client->stalled) close_client(client);
        else write_frame(client, 8, normal, 2);
    }
    while (open_count > 1 && now_ns() < deadline) turn(100);
    for (int i = 0; i < client_count; i++) {
        close_client(clients[i]);
        free(clients[i]);
    }
    clients[0] = NULL;
    ready_count = 1;
    client_count = stalled_count = deflating_count = 0;
    printf("dropped\n");
}

static void obey(char *line) {
    int a, b, c, d;
    if (!strncmp(line, "message ", 8)) {
        if (text_count == MAX_TEXTS) fail("there are too many texts");
        texts[text_count++] = strdup(line + 8);
        printf("message\n");
    } else if (!strcmp(line, "forget")) {
        while (text_count) free(texts[--text_count]);
        printf("forgotten\n");
    } else if (sscanf(line, "open %d %d %d", &a, &b, &c) == 3 && a > 0 && b > 0 && c > 0) {
        command_open(a, b, c);
    } else if (sscanf(line, "stall %d", &a) == 1 && a > 0 && a < client_count) {
        command_stall(a);
    } else if (sscanf(line, "run %d %d %d %d", &a, &b, &c, &d) == 4 && a >= channel_count && b > 0 && c > 0) {
        command_run(a, b, c, d);
    } else if (!strcmp(line, "drop")) {
        command_drop();
    } else {
        fail("what is %.100s?", line);
    }
}

/* Arguments: PORT PATH DEFLATE, then for the subscriber and for the publisher: READY_AFTER STEPS (AFTER TEXT)... */
static char **read_script(struct script *script, char **argument) {
    if (!argument[0] || !argument[1]) fail("a script is missing");
    script->ready_after = atoi(*argument++);
    script->count = atoi(*argument++);
    if (script->count > MAX_STEPS) fail("a script has too many steps");
    for (int i = 0; i < script->count; i++) {
        if (!argument[0] || !argument[1]) fail("a step is missing");
        script->after[i] = atoi(*argument++);
        script->text[i] = *argument++;
    }
    return argument;
}

int main(int count, char **arguments) {
    static char line[LINE_SIZE];
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count < 4) fail("PORT PATH DEFLATE and two scripts are needed");
    port = atoi(arguments[1]);
    host_path = arguments[2];
    offer_deflate = atoi(arguments[3]);
    read_script(&publisher_script, read_script(&subscriber_script, arguments + 4));
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &input) < 0) fail("epoll: %s", strerror(errno));
    clients = allocate(1, sizeof *clients);
    publisher = start_connecting(&publisher_script, 0);
    uint64_t deadline = now_ns() + OPEN_TIMEOUT_MS * 1000000ull;
    while (!publisher->ready)
        if (turn(1000), now_ns() > deadline) fail("the publisher's socket was not ready in time");
    printf("ready\n");
    size_t length = 0;
    for (;;) {
        if (!turn(-1)) continue;
        ssize_t got = read(STDIN_FILENO, line + length, sizeof line - length - 1);
        if (got <= 0) return 0; /* whoever started this is gone */
        length += (size_t)got;
        line[length] = 0;
        for (char *end; (end = strchr(line, '\n')); length = strlen(line)) {
            *end = 0;
            obey(line);
            memmove(line, end + 1, strlen(end + 1) + 1);
        }
        if (length == sizeof line - 1) fail("a line is too long");
    }
}
