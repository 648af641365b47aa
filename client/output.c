#include "client/output.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define OUTPUT_BUFFER_SIZE 65536

void output_setup(void) {
        static char output_buffer[OUTPUT_BUFFER_SIZE], error_buffer[OUTPUT_BUFFER_SIZE];

        (void)setvbuf(stdout, output_buffer, isatty(STDOUT_FILENO) ? _IOLBF : _IOFBF, sizeof(output_buffer));
        (void)setvbuf(stderr, error_buffer, isatty(STDERR_FILENO) ? _IOLBF : _IOFBF, sizeof(error_buffer));
}

static int failed(struct output *output) {
        if (output->error == 0)
                output->error = errno > 0 ? -errno : -EIO;
        return output->error;
}

int output_write(struct output *output, const char *data, size_t len) {
        if (len == 0 || output->error < 0)
                return output->error;
        /* The two may be one file: what was said before stands before. */
        (void)fflush(stderr);
        if (fwrite(data, 1, len, stdout) != len)
                return failed(output);
        output->line_open = data[len - 1] != '\n';
        return 0;
}

int output_end_line(struct output *output) {
        if (output->error < 0)
                return output->error;
        if (putchar('\n') == EOF)
                return failed(output);
        output->line_open = false;
        return 0;
}

int output_flush(struct output *output) {
        (void)fflush(stderr);
        if (output->error == 0 && fflush(stdout) != 0)
                return failed(output);
        return output->error;
}

void output_complain(struct output *output, const char *format, ...) {
        va_list ap;

        if (output->line_open)
                (void)output_end_line(output);
        if (output->error == 0 && fflush(stdout) != 0)
                (void)failed(output);
        fputs("mscli: ", stderr);
        va_start(ap, format);
        vfprintf(stderr, format, ap);
        va_end(ap);
        fputc('\n', stderr);
}
