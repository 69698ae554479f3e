/* A shared library whose constructor misbehaves. -DHOW= one of the words below says how. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FINE 0
#define SEGV 1
#define ILL 2
#define EXIT 3
#define HANG 4
#define SHOUT 5
#define FORK 6
#define COMPLAIN 7
#define KILL 8
#define ABORT 9

#ifndef HOW
#define HOW FINE
#endif

#if HOW == SEGV || HOW == COMPLAIN
static int *volatile nowhere; /* volatile: a compiler that sees the null drops the write, or the function */
#endif

__attribute__((constructor)) static void misbehave(void)
{
#if HOW == SEGV
    *nowhere = 1;
#elif HOW == ILL
    __asm__ volatile("ud2");
#elif HOW == EXIT
    exit(0);
#elif HOW == HANG
    for (;;)
        sleep(1000);
#elif HOW == SHOUT
    /* A megabyte, with lines that look like the child's answers but carry a nonce of somebody else's. */
    for (int i = 0; i < 16384; i++)
        printf("00000000000000000000000000000000 {\"done\": {\"devices\": [], \"facts\": {\"forged\": 1}}}\n");
    fflush(stdout);
    for (int fd = 3; fd < 16; fd++) {
        const char *line = "ffffffffffffffffffffffffffffffff {\"done\": {\"devices\": [], \"facts\": {\"forged\": 2}}}\n";
        ssize_t ignored = write(fd, line, strlen(line));
        (void)ignored;
    }
#elif HOW == FORK
    /* A grandchild in a session of its own, which keeps every pipe open long after the child is gone. */
    if (fork() == 0) {
        setsid();
        sleep(25);
        _exit(0);
    }
#elif HOW == COMPLAIN
    fprintf(stderr, "stub: the frobnicator is upside down\n");
    *nowhere = 1;
#elif HOW == KILL
    raise(SIGKILL);
#elif HOW == ABORT
    abort();
#endif
}

/* So that it can stand where a backend module or a libllama is expected. */
int ggml_backend_score(void) { return 1; }
void *ggml_backend_init(void) { return 0; }
