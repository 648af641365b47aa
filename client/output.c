#include "client/output.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "common/printable.h"

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

static void print_line(const char *begin, const char *format, va_list arguments) {
        char line[8192];

        (void)vsnprintf(line, sizeof(line), format, arguments);
        fprintf(stderr, "%s%s\n", begin, printable_line(line));
}

void output_complain(struct output *output, const char *format, ...) {
        va_list arguments;

        if (output->line_open)
                (void)output_end_line(output);
        if (output->error == 0 && fflush(stdout) != 0)
                (void)failed(output);
        va_start(arguments, format);
        print_line("mscli: ", format, arguments);
        va_end(arguments);
}

void output_advise(const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        print_line("", format, arguments);
        va_end(arguments);
}
