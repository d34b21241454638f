/* The plugin as a C program sees it: loaded with dlopen as NCCL does, driven through the table of
 * version 12 in a ring of connections, unloaded while a thread lives that ran its code, loaded
 * again. Its declarations are its own: it shares nothing with the plugin but the interface.
 *
 * usage: dlopen PLUGIN; exit status 0 if all is right. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RANKS = 3, STEPS = 6, HANDLE_BYTES = 128, PTR_HOST = 1, INVALID_USAGE = 5, PATIENCE_S = 400 };

typedef void (*logger_t)(int level, unsigned long flags, const char *file, int line,
                         const char *format, ...);

typedef struct {
    int ndevs;
    int devs[8];
} vdevice_t;

typedef struct {
    char *name;
    char *pci_path;
    uint64_t guid;
    int ptr_support, reg_is_global, force_flush, speed, port;
    float latency;
    int max_comms, max_recvs, device_type, device_version;
    vdevice_t vdevice;
    size_t max_p2p_bytes, max_coll_bytes;
    int max_multi_request_size;
    int16_t rail_id, plane_id;
} properties_t;

typedef struct {
    const char *name;
    int (*init)(void **, uint64_t, int *, logger_t, void *);
    int (*devices)(int *);
    int (*get_properties)(int, properties_t *);
    int (*listen)(void *, int, void *, void **);
    int (*connect)(void *, int, void *, void **, void **);
    int (*accept)(void *, void **, void **);
    int (*reg_mr)(void *, void *, size_t, int, void **);
    int (*reg_mr_dma_buf)(void *, void *, size_t, int, uint64_t, int, void **);
    int (*dereg_mr)(void *, void *);
    int (*isend)(void *, void *, size_t, int, void *, void *, void **);
    int (*irecv)(void *, int, void **, size_t *, int *, void **, void **, void **);
    int (*iflush)(void *, int, void **, int *, void **, void **);
    int (*test)(void *, int *, int *);
    int (*close_send)(void *);
    int (*close_recv)(void *);
    int (*close_listen)(void *);
    int (*get_device_mr)(void *, void *, void **);
    int (*irecv_consumed)(void *, int, void *);
    int (*make_vdevice)(int *, vdevice_t *);
    int (*finalize)(void *);
    int (*set_net_attr)(void *, void *);
} net_t;

static void fail(const char *what, int got) {
    fprintf(stderr, "dlopen: %s: %d\n", what, got);
    exit(1);
}

#define CALL(call)                      \
    do {                                \
        int code_ = (call);             \
        if (code_ != 0)                 \
            fail(#call, code_);         \
    } while (0)

#define EXPECT(condition)               \
    do {                                \
        if (!(condition))               \
            fail(#condition, __LINE__); \
    } while (0)

static void no_log(int level, unsigned long flags, const char *file, int line, const char *format,
                   ...) {
    (void)level, (void)flags, (void)file, (void)line;
    EXPECT(strcmp(format, "%s") == 0);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static unsigned char byte_of(int rank, int step, size_t i) {
    return (unsigned char)((i * 2654435761u + (size_t)rank * 97 + (size_t)step * 31) >> 7);
}

/* Every rank sends to the next one: all of them in this thread, each step with a size of its own. */
static void ring(const net_t *net, void *context) {
    static const size_t sizes[STEPS] = {0, 1, 511, 65536, 1048576, 33};
    void *listener[RANKS], *send[RANKS] = {0}, *recv[RANKS] = {0};
    void *send_mr[RANKS], *recv_mr[RANKS];
    unsigned char handle[RANKS][HANDLE_BYTES], *out[RANKS], *in[RANKS];
    const size_t capacity = 1048576 + 100;
    double end = seconds() + PATIENCE_S;
    int left = 2 * RANKS;

    for (int r = 0; r < RANKS; r++)
        CALL(net->listen(context, 0, handle[r], &listener[r]));
    while (left > 0) {
        EXPECT(seconds() < end);
        for (int r = 0; r < RANKS; r++) {
            if (send[r] == NULL) {
                CALL(net->connect(context, 0, handle[(r + 1) % RANKS], &send[r], NULL));
                left -= send[r] != NULL;
            }
            if (recv[r] == NULL) {
                CALL(net->accept(listener[r], &recv[r], NULL));
                left -= recv[r] != NULL;
            }
        }
    }
    for (int r = 0; r < RANKS; r++) {
        CALL(net->close_listen(listener[r]));
        /* malloc and not calloc: a checker of memory sees what is sent without having been set. */
        out[r] = malloc(capacity);
        in[r] = malloc(capacity);
        EXPECT(out[r] != NULL && in[r] != NULL);
        CALL(net->reg_mr(send[r], out[r], capacity, PTR_HOST, &send_mr[r]));
        CALL(net->reg_mr(recv[r], in[r], capacity, PTR_HOST, &recv_mr[r]));
    }
    for (int step = 0; step < STEPS; step++) {
        void *requests[2 * RANKS];
        size_t offered = sizes[step] + 100;
        int tag = step;
        for (int r = 0; r < RANKS; r++) {
            void *data = in[r], *mr = recv_mr[r], *event = NULL;
            for (size_t i = 0; i < sizes[step]; i++)
                out[r][i] = byte_of(r, step, i);
            memset(in[r], 0xee, offered);
            requests[r] = (void *)(uintptr_t)(step % 2); /* optional completion, every other time */
            requests[RANKS + r] = (void *)(uintptr_t)0xdead;
            CALL(net->irecv(recv[r], 1, &data, &offered, &tag, &mr, &event, &requests[r]));
            CALL(net->isend(send[r], out[r], sizes[step], tag, send_mr[r], NULL,
                            &requests[RANKS + r]));
            EXPECT(requests[r] != NULL && requests[RANKS + r] != NULL);
        }
        for (left = 2 * RANKS; left > 0;) {
            EXPECT(seconds() < end);
            for (int q = 0; q < 2 * RANKS; q++) {
                int done = 0, size[2] = {-1, -1};
                if (requests[q] == NULL)
                    continue;
                CALL(net->test(requests[q], &done, size));
                if (!done)
                    continue;
                EXPECT(size[1] == -1);
                EXPECT(q >= RANKS || (size_t)size[0] == sizes[step]);
                requests[q] = NULL;
                left--;
            }
        }
        for (int r = 0; r < RANKS; r++) {
            int from = (r + RANKS - 1) % RANKS;
            for (size_t i = 0; i < offered; i++)
                EXPECT(in[r][i] == (i < sizes[step] ? byte_of(from, step, i) : 0xee));
        }
    }
    for (int r = 0; r < RANKS; r++) {
        CALL(net->dereg_mr(send[r], send_mr[r]));
        CALL(net->dereg_mr(recv[r], recv_mr[r]));
        CALL(net->close_recv(recv[r]));
        CALL(net->close_send(send[r]));
        free(out[r]);
        free(in[r]);
    }
}

static void *load(const char *path, const net_t **net) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "dlopen: %s\n", dlerror());
        exit(1);
    }
    *net = dlsym(library, "ncclNetPlugin_v12");
    EXPECT(*net != NULL);
    EXPECT(strcmp((*net)->name, "thalweg") == 0);
    return library;
}

static void *start(const net_t *net) {
    void *context = NULL;
    int config = -1, devices = 0;
    properties_t properties;
    CALL(net->init(&context, 42, &config, no_log, NULL));
    EXPECT(context != NULL);
    CALL(net->devices(&devices));
    EXPECT(devices >= 1);
    CALL(net->get_properties(0, &properties));
    EXPECT(properties.name[0] != 0 && properties.ptr_support == PTR_HOST);
    EXPECT(properties.max_recvs == 8 && properties.rail_id == -1 && properties.plane_id == -1);
    EXPECT(properties.vdevice.ndevs == 1 && properties.vdevice.devs[0] == 0);
    EXPECT(net->iflush != NULL && net->reg_mr_dma_buf != NULL);
    /* Over TCP there is one device only. */
    int made = -7;
    vdevice_t two = {2, {0, 1}};
    EXPECT(net->make_vdevice(&made, &two) == INVALID_USAGE && made == -7);
    return context;
}

/* A thread of the host that runs the plugin's code, and outlives the plugin. */
typedef struct {
    const net_t *net;
    pthread_barrier_t used, unloaded;
} helper_t;

static void *helper(void *argument) {
    helper_t *shared = argument;
    void *context = start(shared->net);
    ring(shared->net, context);
    CALL(shared->net->finalize(context));
    pthread_barrier_wait(&shared->used);
    pthread_barrier_wait(&shared->unloaded);
    /* What the plugin's language left in this thread is cleaned up behind this line. */
    return NULL;
}

int main(int argc, char **argv) {
    const net_t *net;
    if (argc != 2)
        fail("usage: dlopen PLUGIN", argc);
    for (int round = 0; round < 2; round++) {
        helper_t shared;
        pthread_t thread;
        void *library = load(argv[1], &net);
        shared.net = net;
        EXPECT(pthread_barrier_init(&shared.used, NULL, 2) == 0);
        EXPECT(pthread_barrier_init(&shared.unloaded, NULL, 2) == 0);
        EXPECT(pthread_create(&thread, NULL, helper, &shared) == 0);
        pthread_barrier_wait(&shared.used);
        EXPECT(dlclose(library) == 0);
        pthread_barrier_wait(&shared.unloaded);
        EXPECT(pthread_join(thread, NULL) == 0);
        pthread_barrier_destroy(&shared.used);
        pthread_barrier_destroy(&shared.unloaded);
    }
    /* And once as everybody does. */
    void *library = load(argv[1], &net);
    void *context = start(net);
    ring(net, context);
    CALL(net->finalize(context));
    EXPECT(dlclose(library) == 0);
    puts("ok");
    return 0;
}
