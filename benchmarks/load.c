/* A small HTTP/1.1 load client: one thread, one epoll, keep-alive connections in a closed loop.
 *
 * It exists because the usual clients saturate before the servers measured here do. It checks status and length of every answer
 * and reads every byte; it understands Content-Length only, which is all that a file or a held page may be sent with.
 *
 *   load -p PORT -r FILE [-c CONNECTIONS] [-t SECONDS] [-e STATUS] [-k CPU]
 *        [-1]         one request for each connection, then stop; the answer lists each connection's times
 *        [-w MS]      the second half of the connections begins MS milliseconds later
 *        [-i US]      pause between the requests of one connection
 *        [-s BYTES]   read no more than BYTES a second on each connection
 *
 * FILE holds one request, byte for byte. Only 127.0.0.1 is ever connected to. Prints one line of JSON; all times are microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_LIMIT = 16384, BODY_PIECE = 262144 };
enum phase { WAITING, HEAD, BODY, DONE };

struct connection {
    int fd;
    enum phase phase;
    uint64_t due, began, first, ended; /* nanoseconds */
    uint64_t left, received;
    uint32_t head_length;
    char head[HEAD_LIMIT];
};

static char request[65536], piece[BODY_PIECE];
static size_t request_length;
static int port, connections = 1, expected = 200, once, epoll;
static double seconds = 1;
static uint64_t pause_ns, slow_bytes;
static uint64_t answers, body_bytes, errors, finished;
static uint32_t *samples;
static size_t sample_count, sample_room;
static char trouble[160];

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(struct connection *c, const char *why) {
    errors++;
    if (!trouble[0]) snprintf(trouble, sizeof trouble, "%s", why);
    close(c->fd);
    c->fd = -1;
    c->phase = DONE;
    finished++;
}

static void sample(uint64_t ns) {
    if (sample_count == sample_room) {
        sample_room = sample_room ? sample_room * 2 : 1 << 20;
        samples = realloc(samples, sample_room * sizeof *samples);
        if (!samples) exit(3);
    }
    uint64_t tenths = ns / 100; /* tenths of a microsecond: 32 bits last for seven minutes */
    samples[sample_count++] = tenths > UINT32_MAX ? UINT32_MAX : (uint32_t)tenths;
}

static void begin(struct connection *c) {
    if (c->fd < 0) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int one = 1, small = 8192;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (slow_bytes) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        if (once) c->began = now();
        if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) { fail(c, strerror(errno)); return; }
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (!slow_bytes) epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
    }
    if (!once || !c->began) c->began = now();
    c->phase = HEAD;
    c->head_length = 0;
    c->first = 0;
    c->received = 0;
    if (send(c->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length) fail(c, "request not taken whole");
}

static void complete(struct connection *c) {
    c->ended = now();
    answers++;
    sample(c->ended - c->began);
    if (once) {
        c->phase = DONE;
        finished++;
        close(c->fd);
        c->fd = -1;
    } else if (pause_ns) {
        c->phase = WAITING;
        c->due = c->ended + pause_ns;
    } else {
        begin(c);
    }
}

/* Read the head's status and length; what follows it in the buffer belongs to the body. */
static void read_head(struct connection *c) {
    char *end = memmem(c->head, c->head_length, "\r\n\r\n", 4);
    if (!end) {
        if (c->head_length == HEAD_LIMIT) fail(c, "endless head");
        return;
    }
    end[2] = 0;
    int status = c->head_length > 12 ? atoi(c->head + 9) : 0;
    if (status != expected) {
        char why[64];
        snprintf(why, sizeof why, "status %d", status);
        fail(c, why);
        return;
    }
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    uint64_t total = length ? strtoull(length + 17, NULL, 10) : 0;
    if (!length && status == 200) { fail(c, "no Content-Length"); return; }
    uint64_t here = (uint64_t)(c->head + c->head_length - (end + 4));
    if (status == 304) total = 0;
    if (here > total) { fail(c, "more body than said"); return; }
    if (here) c->first = now();
    c->received = here;
    body_bytes += here;
    c->left = total - here;
    c->phase = BODY;
    if (!c->left) complete(c);
}

/* Returns whether reading again at once may give more. */
static int receive(struct connection *c, size_t limit) {
    int head = c->phase == HEAD;
    char *into = head ? c->head + c->head_length : piece;
    size_t room = head ? HEAD_LIMIT - c->head_length : sizeof piece;
    if (!head && c->left < room) room = c->left;
    if (limit && limit < room) room = limit;
    ssize_t got = recv(c->fd, into, room, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got <= 0) { fail(c, got ? strerror(errno) : "closed early"); return 0; }
    if (head) {
        c->head_length += (uint32_t)got;
        read_head(c);
        return 0;
    }
    if (!c->first) c->first = now();
    c->received += (uint64_t)got;
    body_bytes += (uint64_t)got;
    c->left -= (uint64_t)got;
    if (!c->left) { complete(c); return 0; }
    return (size_t)got == room;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile(double q) {
    if (!sample_count) return 0;
    size_t at = (size_t)(q * (double)(sample_count - 1));
    return samples[at] / 10.0;
}

int main(int argc, char **argv) {
    const char *path = NULL;
    uint64_t wave_ns = 0;
    int option;
    while ((option = getopt(argc, argv, "p:r:c:t:e:k:1w:i:s:")) != -1) {
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'r': path = optarg; break;
        case 'c': connections = atoi(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'e': expected = atoi(optarg); break;
        case '1': once = 1; break;
        case 'w': wave_ns = strtoull(optarg, NULL, 10) * 1000000u; break;
        case 'i': pause_ns = strtoull(optarg, NULL, 10) * 1000u; break;
        case 's': slow_bytes = strtoull(optarg, NULL, 10); break;
        case 'k': {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(atoi(optarg), &set);
            sched_setaffinity(0, sizeof set, &set);
            break;
        }
        default: return 2;
        }
    }
    FILE *file = path ? fopen(path, "rb") : NULL;
    if (!file || !port || connections < 1) return 2;
    request_length = fread(request, 1, sizeof request, file);
    fclose(file);

    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    struct epoll_event *events = calloc(512, sizeof *events);
    if (!all || !events) return 3;
    uint64_t start = now(), stop = start + (uint64_t)(seconds * 1e9), slow_due = start;
    for (int i = 0; i < connections; i++) {
        all[i].fd = -1;
        all[i].due = start + (wave_ns && i >= connections / 2 ? wave_ns : 0);
    }
    int scan = 1; /* whether some connection may be waiting for its time */
    uint64_t time;
    while ((time = now()) < stop && finished < (uint64_t)connections) {
        if (scan) {
            scan = 0;
            for (int i = 0; i < connections; i++) {
                if (all[i].phase != WAITING) continue;
                if (all[i].due <= time) begin(&all[i]);
                else scan = 1;
            }
        }
        if (slow_bytes) { /* ten helpings a second */
            if (time >= slow_due) {
                slow_due = time + 100000000u;
                for (int i = 0; i < connections; i++)
                    if (all[i].phase == HEAD || all[i].phase == BODY) receive(&all[i], slow_bytes / 10 + 1);
            }
            usleep(2000);
            continue;
        }
        int ready = epoll_wait(epoll, events, 512, scan || pause_ns ? 1 : 50);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->fd >= 0) for (int again = 4; again && receive(c, 0); again--) {}
        }
        if (pause_ns) scan = 1;
    }
    double elapsed = (double)(now() - start) / 1e9;
    qsort(samples, sample_count, sizeof *samples, ascending);
    printf("{\"answers\":%lu,\"bytes\":%lu,\"errors\":%lu,\"trouble\":\"%s\",\"seconds\":%.6f,\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f",
           answers, body_bytes, errors, trouble, elapsed, quantile(.5), quantile(.99), quantile(1));
    printf(",\"each\":[");
    for (int i = 0; once && i < connections; i++) {
        struct connection *c = &all[i];
        printf("%s[%.1f,%.1f,%lu]", i ? "," : "", c->first ? (double)(c->first - c->began) / 1e3 : -1.0,
               c->phase == DONE && c->ended ? (double)(c->ended - c->began) / 1e3 : -1.0, c->received);
    }
    printf("]}\n");
    return 0;
}
