/*
 * Addresses: of the request socket, of an HTTP front's upstream, and where the socket is when nobody says.
 */

#include "common/address.h"
#include "daemon/model/fetch.h"
#include "tests/fuzz/fuzz.h"

static void make_address(const char *path) {
        struct sockaddr_un address;
        socklen_t len = 0;
        int r = address_from_path(path, &address, &len);

        expect(r == (*path == '\0' ? ADDRESS_EMPTY : strlen(path) >= ADDRESS_PATH_MAX ? ADDRESS_TOO_LONG : 0));
        if (r != 0)
                return;
        expect(address.sun_family == AF_UNIX && strcmp(address.sun_path, path) == 0);
        expect(len == offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1);
}

static void find_default(struct input *input) {
        const uint8_t set = input_byte(input);
        char *variables[3], path[ADDRESS_PATH_MAX], expected[8192] = "";
        struct address_environment environment = { .root = set & 8 };
        int r;

        for (unsigned i = 0; i < 3; i++)
                variables[i] = input_text(input, '\n');
        environment.msd_socket = set & 1 ? variables[0] : NULL;
        environment.runtime_directory = set & 2 ? variables[1] : NULL;
        environment.xdg_runtime_dir = set & 4 ? variables[2] : NULL;
        r = address_default_path(&environment, path);
        if (environment.msd_socket && *variables[0])
                snprintf(expected, sizeof(expected), "%s", variables[0]);
        else if (environment.runtime_directory && *variables[1]) {
                variables[1][strcspn(variables[1], ":")] = '\0';
                snprintf(expected, sizeof(expected), "%s/msd.sock", variables[1]);
        } else if (environment.root)
                snprintf(expected, sizeof(expected), "%s", ADDRESS_SYSTEM_PATH);
        else if (environment.xdg_runtime_dir && *variables[2])
                snprintf(expected, sizeof(expected), "%s/msd.sock", variables[2]);
        if (*expected == '\0')
                expect(r == ADDRESS_UNKNOWN);
        else if (strlen(expected) >= ADDRESS_PATH_MAX)
                expect(r == ADDRESS_TOO_LONG);
        else
                expect(r == 0 && strcmp(path, expected) == 0);
        for (unsigned i = 0; i < 3; i++)
                free(variables[i]);
}

static bool is_ended(const char *text, size_t size) {
        return memchr(text, '\0', size) != NULL;
}

static void read_url(const char *url) {
        struct target target;
        char again[sizeof(target.base) + sizeof(target.path)];
        struct target second;

        if (target_parse(&target, url) < 0)
                return;
        expect(is_ended(target.base, sizeof(target.base)));
        expect(is_ended(target.path, sizeof(target.path)));
        expect(is_ended(target.socket, sizeof(target.socket)));
        expect(strncmp(target.base, "http://", 7) == 0);
        if (strncmp(url, "unix:", 5) == 0) {
                expect(strcmp(target.socket, url + 5) == 0 && *target.socket && !*target.path);
                return;
        }
        expect(!*target.socket && target.base[7] && !strchr(target.base + 7, '/'));
        expect(!strpbrk(target.base, " \t\r\n?#") && !strpbrk(target.path, " \t\r\n?#"));
        expect(!*target.path || (*target.path == '/' && target.path[strlen(target.path) - 1] != '/'));
        snprintf(again, sizeof(again), "%s%s", target.base, target.path);
        expect(target_parse(&second, again) == 0);
        expect(strcmp(second.base, target.base) == 0 && strcmp(second.path, target.path) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        uint8_t which = input_byte(&input);
        char *text;

        /* Longer than what it is compared with. */
        if (size > 4096)
                return 0;
        if (which == 'd') {
                find_default(&input);
                return 0;
        }
        text = input_text(&input, '\0');
        if (which == 'p')
                make_address(text);
        else if (which == 'u')
                read_url(text);
        free(text);
        return 0;
}
