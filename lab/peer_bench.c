/* peer_bench: measures any ncclNet v12 transport between two processes, on CPUs only.
 *
 * It drives the transport the way NCCL's proxy thread does: listen/connect/accept polled
 * without blocking, up to K requests outstanding, and `test` asked of the oldest one first.
 * The transport is either a plugin (.so that exports ncclNetPlugin_v12), or one of the two
 * that are built into NCCL itself (Socket, IB), found in libnccl.so.2 by its symbol table,
 * so that both are measured by the same program in one run.
 *
 * Build:  gcc -O2 -Wall -o peer_bench peer_bench.c -ldl -lpthread
 * Server: ./peer_bench --plugin ./libnccl-net-x.so            --server --addr 10.0.0.2
 * Client: ./peer_bench --plugin ./libnccl-net-x.so            --client --addr 10.0.0.2 --size 1M --iters 2000
 * NCCL's: ./peer_bench --nccl libnccl.so.2 --builtin Socket … (or --builtin IB on an RDMA device)
 *
 * Options: --port P (7800) --size N[K|M] (1M) --iters N (1000) --inflight K (8) --dev D (0)
 *          --comms C (1) connections, driven round-robin by one thread
 *          --pingpong   one message at a time, half round trips in microseconds (p50, p99)
 *          --verify     fill each message with its number and check every byte that arrives
 *          --seconds S  stop after S seconds instead of --iters; prints a line every --report ms;
 *                       what was sent is still received, and checked with --verify, before the end
 * The client prints one line of `key=value` pairs. Exit status 0, or 1 with the call that failed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { HANDLE_BYTES = 128, MAX_INFLIGHT = 32, MAX_COMMS = 64, PTR_HOST = 1 };

/* Table of ncclNet v12: 22 pointers, in the order in which NCCL 2.30 reads them. */
struct net {
  const char *name;
  int (*init)(void **ctx, uint64_t comm_id, void *config, void *log_fn, void *prof_fn);
  int (*devices)(int *count);
  int (*get_properties)(int dev, void *props);
  int (*listen)(void *ctx, int dev, void *handle, void **listen_comm);
  int (*connect)(void *ctx, int dev, void *handle, void **send_comm, void **dev_handle);
  int (*accept)(void *listen_comm, void **recv_comm, void **dev_handle);
  int (*reg_mr)(void *comm, void *data, size_t size, int type, void **mhandle);
  int (*reg_mr_dmabuf)(void *comm, void *data, size_t size, int type, uint64_t offset, int fd, void **mhandle);
  int (*dereg_mr)(void *comm, void *mhandle);
  int (*isend)(void *comm, void *data, size_t size, int tag, void *mhandle, void *phandle, void **request);
  int (*irecv)(void *comm, int n, void **data, size_t *sizes, int *tags, void **mhandles, void **phandles, void **request);
  int (*iflush)(void *comm, int n, void **data, int *sizes, void **mhandles, void **request);
  int (*test)(void *request, int *done, int *sizes);
  int (*close_send)(void *comm);
  int (*close_recv)(void *comm);
  int (*close_listen)(void *comm);
  void *get_device_mr, *irecv_consumed, *make_vdevice;
  int (*finalize)(void *ctx);
  void *set_net_attr;
};

struct options {
  const char *plugin, *nccl, *builtin, *addr;
  int is_server, port, inflight, dev, comms, pingpong, verify, report_ms;
  size_t size;
  long iters;
  double seconds;
};

#define CALL(expr)                                                             \
  do {                                                                         \
    int rc_ = (expr);                                                          \
    if (rc_ != 0) {                                                            \
      fprintf(stderr, "peer_bench: %s returned %d (line %d)\n", #expr, rc_, __LINE__); \
      exit(1);                                                                 \
    }                                                                          \
  } while (0)

static void die(const char *what) {
  perror(what);
  exit(1);
}

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static void log_line(int level, unsigned long flags, const char *file, int line, const char *fmt, ...) {
  (void)flags;
  const char *want = getenv("PEER_BENCH_LOG"); /* 2 = warnings, 3 = info */
  if (level > (want ? atoi(want) : 2)) return;
  va_list args;
  va_start(args, fmt);
  fprintf(stderr, "[%d] %s:%d ", level, file ? file : "?", line);
  vfprintf(stderr, fmt, args);
  fputc('\n', stderr);
  va_end(args);
}

/* Address offset of a symbol, local ones included, from the file's .symtab; 0 if absent. */
static uint64_t symbol_offset(const char *path, const char *name) {
  int fd = open(path, O_RDONLY);
  if (fd < 0) die(path);
  struct stat st;
  fstat(fd, &st);
  char *map = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (map == MAP_FAILED) die("mmap");
  Elf64_Ehdr *eh = (Elf64_Ehdr *)map;
  Elf64_Shdr *sh = (Elf64_Shdr *)(map + eh->e_shoff);
  uint64_t found = 0;
  for (int i = 0; i < eh->e_shnum && !found; i++) {
    if (sh[i].sh_type != SHT_SYMTAB) continue;
    Elf64_Sym *sym = (Elf64_Sym *)(map + sh[i].sh_offset);
    char *str = map + sh[sh[i].sh_link].sh_offset;
    for (uint64_t k = 0; k < sh[i].sh_size / sizeof *sym; k++)
      if (sym[k].st_value && !strcmp(str + sym[k].st_name, name)) found = sym[k].st_value;
  }
  munmap(map, st.st_size);
  return found;
}

/* The built-in transports ask for the current GPU; without a driver the answer is "device 0". */
static void answer_device_zero(char *fn, int has_out) {
  static const unsigned char with_out[] = {0xc7, 0x07, 0, 0, 0, 0, 0x31, 0xc0, 0xc3};
  static const unsigned char plain[] = {0x31, 0xc0, 0xc3};
  uintptr_t page = (uintptr_t)fn & ~(uintptr_t)4095;
  if (mprotect((void *)page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC)) die("mprotect");
  memcpy(fn, has_out ? with_out : plain, has_out ? sizeof with_out : sizeof plain);
}

static struct net *load_net(const struct options *o) {
  const char *path = o->plugin ? o->plugin : o->nccl;
  void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!lib) {
    fprintf(stderr, "peer_bench: %s\n", dlerror());
    exit(1);
  }
  if (o->plugin) {
    struct net *net = dlsym(lib, "ncclNetPlugin_v12");
    if (!net) fprintf(stderr, "peer_bench: %s exports no ncclNetPlugin_v12\n", path), exit(1);
    return net;
  }
  struct link_map *lm;
  if (dlinfo(lib, RTLD_DI_LINKMAP, &lm)) die("dlinfo");
  uint64_t table = symbol_offset(path, !strcmp(o->builtin, "IB") ? "ncclNetIb" : "ncclNetSocket");
  uint64_t get_dev = symbol_offset(path, "cudaGetDevice"), set_dev = symbol_offset(path, "cudaSetDevice");
  if (!table) fprintf(stderr, "peer_bench: %s has no symbol table\n", path), exit(1);
  if (!getenv("PEER_BENCH_REAL_CUDA")) {
    if (get_dev) answer_device_zero((char *)lm->l_addr + get_dev, 1);
    if (set_dev) answer_device_zero((char *)lm->l_addr + set_dev, 0);
  }
  return (struct net *)(lm->l_addr + table);
}

static void xfer(int fd, void *buf, size_t n, int writing) {
  for (size_t done = 0; done < n;) {
    ssize_t k = writing ? write(fd, (char *)buf + done, n - done) : read(fd, (char *)buf + done, n - done);
    if (k <= 0) fprintf(stderr, "peer_bench: the other side went away\n"), exit(1);
    done += k;
  }
}

static int rendezvous(const struct options *o) {
  int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(o->port)};
  if (inet_pton(AF_INET, o->addr, &a.sin_addr) != 1) fprintf(stderr, "peer_bench: bad --addr\n"), exit(1);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (o->is_server) {
    if (bind(fd, (void *)&a, sizeof a) || listen(fd, 1)) die("bind");
    int peer = accept(fd, NULL, NULL);
    if (peer < 0) die("accept");
    close(fd);
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return peer;
  }
  for (int tries = 0; connect(fd, (void *)&a, sizeof a); tries++) {
    if (tries > 1500) die("connect");
    usleep(10000);
  }
  /* Handles follow each other here: Nagle's wait for a delayed acknowledgement (40 ms) would be counted as set-up. */
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

struct lane { /* one NCCL connection and its ring of requests */
  void *comm, *listen_comm, *mhandle;
  char *buf;
  void *req[MAX_INFLIGHT];
  double start[MAX_INFLIGHT];
  long issued, done;
};

static int cmp_double(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void fill(unsigned char *p, size_t n, long k) {
  for (size_t i = 0; i < n; i++) p[i] = (unsigned char)(k * 131 + i * 7 + (i >> 8));
}

static int check(const unsigned char *p, size_t n, long k) {
  for (size_t i = 0; i < n; i++)
    if (p[i] != (unsigned char)(k * 131 + i * 7 + (i >> 8))) return 0;
  return 1;
}

int main(int argc, char **argv) {
  struct options o = {.port = 7800, .size = 1 << 20, .iters = 1000, .inflight = 8, .comms = 1, .builtin = "Socket"};
  for (int i = 1; i < argc; i++) {
    const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
    if (!strcmp(a, "--server")) o.is_server = 1;
    else if (!strcmp(a, "--client")) o.is_server = 0;
    else if (!strcmp(a, "--pingpong")) o.pingpong = 1;
    else if (!strcmp(a, "--verify")) o.verify = 1;
    else if (!strcmp(a, "--plugin")) o.plugin = v, i++;
    else if (!strcmp(a, "--nccl")) o.nccl = v, i++;
    else if (!strcmp(a, "--builtin")) o.builtin = v, i++;
    else if (!strcmp(a, "--addr")) o.addr = v, i++;
    else if (!strcmp(a, "--port")) o.port = atoi(v), i++;
    else if (!strcmp(a, "--dev")) o.dev = atoi(v), i++;
    else if (!strcmp(a, "--comms")) o.comms = atoi(v), i++;
    else if (!strcmp(a, "--inflight")) o.inflight = atoi(v), i++;
    else if (!strcmp(a, "--iters")) o.iters = atol(v), i++;
    else if (!strcmp(a, "--seconds")) o.seconds = atof(v), i++;
    else if (!strcmp(a, "--report")) o.report_ms = atoi(v), i++;
    else if (!strcmp(a, "--size")) {
      char *end;
      o.size = strtoull(v, &end, 0);
      if (*end == 'K') o.size <<= 10;
      if (*end == 'M') o.size <<= 20;
      i++;
    } else {
      fprintf(stderr, "peer_bench: unknown option %s\n", a);
      return 1;
    }
  }
  if (!o.addr || !(o.plugin || o.nccl) || o.inflight < 1 || o.inflight > MAX_INFLIGHT || o.comms < 1 || o.comms > MAX_COMMS) {
    fprintf(stderr, "usage: peer_bench (--plugin SO | --nccl LIB --builtin Socket|IB) (--server|--client) --addr IP ...\n");
    return 1;
  }
  if (o.pingpong) o.inflight = 1, o.comms = 1;
  if (o.seconds > 0) o.iters = 1L << 60;

  struct net *net = load_net(&o);
  void *ctx = NULL;
  char config[256], props[512];
  memset(config, 0xff, sizeof config); /* every hint undefined (-1) */
  memset(props, 0, sizeof props);
  CALL(net->init(&ctx, 1, config, (void *)log_line, NULL));
  int ndev = 0;
  CALL(net->devices(&ndev));
  if (o.dev >= ndev) fprintf(stderr, "peer_bench: %s offers %d devices\n", net->name, ndev), exit(1);
  CALL(net->get_properties(o.dev, props));

  int oob = rendezvous(&o);
  xfer(oob, o.is_server ? (void *)&(char){1} : (void *)&(char){0}, 1, o.is_server);
  if (o.is_server) { /* the client's settings win */
    size_t in[6];
    xfer(oob, in, sizeof in, 0);
    o.size = in[0], o.iters = in[1], o.inflight = in[2], o.comms = in[3], o.pingpong = in[4], o.verify = in[5];
  } else {
    size_t out[6] = {o.size, o.iters, o.inflight, o.comms, o.pingpong, o.verify};
    xfer(oob, out, sizeof out, 1);
  }

  /* Data flows client -> server; a ping-pong has a second connection for the way back. */
  struct lane lanes[MAX_COMMS] = {0}, back = {0};
  double setup0 = now_s();
  for (int c = 0; c < o.comms + o.pingpong; c++) {
    struct lane *l = c < o.comms ? &lanes[c] : &back;
    int receives = o.is_server ^ (c >= o.comms);
    char handle[HANDLE_BYTES] = {0};
    if (receives) {
      CALL(net->listen(ctx, o.dev, handle, &l->listen_comm));
      xfer(oob, handle, sizeof handle, 1);
      while (!l->comm) CALL(net->accept(l->listen_comm, &l->comm, NULL));
    } else {
      xfer(oob, handle, sizeof handle, 0);
      while (!l->comm) CALL(net->connect(ctx, o.dev, handle, &l->comm, NULL));
    }
    size_t bytes = o.size * o.inflight;
    if (posix_memalign((void **)&l->buf, 4096, bytes ? bytes : 1)) die("posix_memalign");
    memset(l->buf, 0, bytes);
    CALL(net->reg_mr(l->comm, l->buf, bytes ? bytes : 1, PTR_HOST, &l->mhandle));
  }
  double setup_s = now_s() - setup0;

  long warmup = o.iters < (1L << 59) ? o.iters / 10 : 8, total = 0, wrong = 0;
  double t0 = now_s(), begin = t0, last_report = t0;
  long last_total = 0;
  double *lat = calloc(o.pingpong ? o.iters : 65536, sizeof *lat);
  long nlat = 0;
  if (o.pingpong) {
    for (long k = 0; k < o.iters; k++) {
      double s = now_s();
      for (int leg = 0; leg < 2; leg++) {
        struct lane *l = leg ? &back : &lanes[0];
        int sends = o.is_server ^ (leg == 0);
        void *req = NULL;
        size_t size = o.size;
        int tag = 0, done = 0, sizes[8];
        void *data = l->buf;
        while (!req) {
          if (sends) CALL(net->isend(l->comm, data, size, tag, l->mhandle, NULL, &req));
          else CALL(net->irecv(l->comm, 1, &data, &size, &tag, &l->mhandle, NULL, &req));
        }
        while (!done) CALL(net->test(req, &done, sizes));
      }
      if (k >= warmup) lat[nlat++] = (now_s() - s) / 2 * 1e6;
    }
    total = o.iters;
  } else {
    int stop = 0; /* --seconds: the client issues no more, tells the server how many there were, both drain */
    long goal[MAX_COMMS];
    for (int c = 0; c < o.comms; c++) goal[c] = o.iters;
    int goal_known = o.iters < (1L << 59);
    for (;;) {
      int drained = 1;
      for (int c = 0; c < o.comms; c++) drained &= lanes[c].done >= goal[c];
      if (drained) break;
      if (o.is_server && !goal_known && recv(oob, goal, sizeof(long) * o.comms, MSG_DONTWAIT | MSG_PEEK) == (ssize_t)(sizeof(long) * o.comms)) {
        xfer(oob, goal, sizeof(long) * o.comms, 0);
        goal_known = 1;
      }
      for (int c = 0; c < o.comms; c++) {
        struct lane *l = &lanes[c];
        while (!stop && l->issued < goal[c] && l->issued - l->done < o.inflight) {
          int i = l->issued % o.inflight, tag = 0;
          void *data = l->buf + (size_t)i * o.size;
          size_t size = o.size;
          l->req[i] = NULL;
          if (!o.is_server) {
            if (o.verify) fill(data, size, l->issued);
            CALL(net->isend(l->comm, data, size, tag, l->mhandle, NULL, &l->req[i]));
          } else {
            CALL(net->irecv(l->comm, 1, &data, &size, &tag, &l->mhandle, NULL, &l->req[i]));
          }
          if (!l->req[i]) break; /* would block: ask again later */
          l->start[i] = now_s();
          l->issued++;
        }
        if (l->issued == l->done || l->done >= goal[c]) continue;
        int i = l->done % o.inflight, done = 0, sizes[8];
        CALL(net->test(l->req[i], &done, sizes));
        if (!done) continue;
        if (o.is_server && o.verify && !check((unsigned char *)l->buf + (size_t)i * o.size, o.size, l->done)) wrong++;
        if (!o.is_server && total >= warmup && nlat < 65536) lat[nlat++] = (now_s() - l->start[i]) * 1e6;
        l->done++;
        if (++total == warmup) t0 = now_s();
      }
      double t = now_s();
      if (o.report_ms && (t - last_report) * 1e3 >= o.report_ms) {
        printf("t_ms=%.0f gbps=%.3f\n", (t - begin) * 1e3, (total - last_total) * 8.0 * o.size / (t - last_report) / 1e9);
        fflush(stdout);
        last_report = t, last_total = total;
      }
      if (o.seconds > 0 && !stop && t - begin > o.seconds) {
        stop = 1;
        for (int c = 0; c < o.comms; c++) goal[c] = lanes[c].issued;
        xfer(oob, goal, sizeof(long) * o.comms, 1);
      }
    }
  }
  double elapsed = now_s() - t0;
  if (o.is_server) {
    xfer(oob, &wrong, sizeof wrong, 1);
  } else {
    xfer(oob, &wrong, sizeof wrong, 0);
    qsort(lat, nlat, sizeof *lat, cmp_double);
    printf("transport=%s size=%zu comms=%d inflight=%d messages=%ld gbps=%.3f p50_us=%.1f p99_us=%.1f setup_ms=%.1f corrupt=%ld\n",
           net->name, o.size, o.comms, o.inflight, total, (total - warmup) * 8.0 * o.size / elapsed / 1e9,
           nlat ? lat[nlat / 2] : 0, nlat ? lat[(long)(nlat * 0.99)] : 0, setup_s * 1e3, o.verify ? wrong : -1);
  }
  if (o.iters >= (1L << 59)) return wrong != 0; /* receives may still be posted: leave without closing */
  for (int c = 0; c < o.comms + o.pingpong; c++) {
    struct lane *l = c < o.comms ? &lanes[c] : &back;
    CALL(net->dereg_mr(l->comm, l->mhandle));
    if (l->listen_comm) {
      CALL(net->close_recv(l->comm));
      CALL(net->close_listen(l->listen_comm));
    } else {
      CALL(net->close_send(l->comm));
    }
  }
  if (net->finalize) CALL(net->finalize(ctx));
  return wrong != 0;
}
