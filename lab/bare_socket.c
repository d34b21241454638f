/* The bound of a transport over loopback TCP: one socket, one thread a side, no protocol.
 *
 *   bare_socket [BYTES (65536)] [MESSAGES in the buffer (32)] [SECONDS (1)]
 *
 * Prints what one process sends and the other receives, in Gb/s. Run it a few times: in a virtual machine the kernel's
 * copy into a socket has slow phases (docs/performance.md). */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void check(int ok, const char *what) {
  if (!ok) perror(what), exit(1);
}

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
  size_t bytes = argc > 1 ? strtoul(argv[1], NULL, 0) : 65536, messages = argc > 2 ? strtoul(argv[2], NULL, 0) : 32;
  double seconds = argc > 3 ? atof(argv[3]) : 1;
  if (!bytes || !messages || seconds <= 0 || seconds > 60) {
    fprintf(stderr, "usage: bare_socket [BYTES] [MESSAGES] [SECONDS, at most 60]\n");
    return 2;
  }
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof at;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  check(listener >= 0 && !bind(listener, (void *)&at, len) && !listen(listener, 1), "listen");
  check(!getsockname(listener, (void *)&at, &len), "getsockname");
  size_t whole = bytes * messages;
  char *buffer = malloc(whole);
  check(buffer != NULL, "malloc");
  memset(buffer, 1, whole);
  pid_t sender = fork();
  check(sender >= 0, "fork");
  size_t total = 0;
  if (!sender) {
    int s = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    check(s >= 0 && !connect(s, (void *)&at, len), "connect");
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5); /* as the plugin's */
    for (double end = now_s() + seconds; now_s() < end;) {
      size_t from = total % whole, left = bytes - total % bytes;
      ssize_t sent = send(s, buffer + from, left, MSG_DONTWAIT);
      check(sent >= 0 || errno == EAGAIN, "send");
      if (sent > 0) total += sent;
    }
    _exit(0);
  }
  int s = accept(listener, NULL, NULL);
  check(s >= 0, "accept");
  double begin = now_s();
  for (;;) {
    size_t to = total % whole, left = bytes - total % bytes;
    ssize_t got = recv(s, buffer + to, left, MSG_DONTWAIT);
    check(got >= 0 || errno == EAGAIN, "recv");
    if (got == 0) break;
    if (got > 0) total += got;
  }
  printf("bytes=%zu messages=%zu gbps=%.2f\n", bytes, messages, total * 8e-9 / (now_s() - begin));
  waitpid(sender, NULL, 0);
  return 0;
}
