/*
 * The command line of mscli, an argument a line behind one for $MSD_SOCKET: it is taken, asked, or refused with a reason.
 */

#include "client/options.h"

#include "common/protocol.h"
#include "tests/fuzz/fuzz.h"

#define ARGUMENTS_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        char *arguments[ARGUMENTS_MAX], *argv[ARGUMENTS_MAX + 1], *socket = input_text(&input, '\n'), error[256] = "";
        const struct address_environment environment = { .msd_socket = socket };
        struct options options;
        int count, r;

        arguments[0] = strdup("mscli");
        expect(arguments[0]);
        for (count = 1; count < ARGUMENTS_MAX && input.len > 0; count++)
                arguments[count] = input_text(&input, '\n');
        for (int i = 0; i <= count; i++)
                argv[i] = i < count ? arguments[i] : NULL;

        memset(&options, 0xaa, sizeof(options));
        r = options_parse(&options, &environment, count, argv, error, sizeof(error));
        expect(r == 0 || r == OPTIONS_HELP || r == OPTIONS_VERSION || r == OPTIONS_WRONG);
        expect((r == OPTIONS_WRONG) == (*error != '\0'));
        expect(memchr(error, '\0', sizeof(error)));
        if (r == 0) {
                expect(options.command < COMMAND_COUNT && command_name(options.command));
                expect(memchr(options.path, '\0', sizeof(options.path)) && *options.path);
                expect((options.command == COMMAND_REQUEST) == (options.ids_count > 0));
                expect(!options.prompt || !options.prompt_file);
                for (size_t i = 0; i < options.ids_count; i++)
                        expect(strcmp(options.ids[i], OPTIONS_STDIN) == 0 ||
                               protocol_id_valid(options.ids[i], strlen(options.ids[i])));
        }
        for (int i = 0; i < count; i++)
                free(arguments[i]);
        free(socket);
        return 0;
}
