/*
 * Lines of /proc/net/tcp, tcp6 and unix, of any bytes: an address that was read fits itself best, and one that fits another has
 * its port.
 */

#include "daemon/model/listening.h"

#include <netinet/in.h>

#include "common/util.h"
#include "tests/fuzz/fuzz.h"

static void check_socket(const struct listening_socket *socket) {
        static struct listening_socket before;
        unsigned match = listening_match(&socket->address, &socket->address);

        expect(match > 0);
        match = listening_match(&before.address, &socket->address);
        expect(match <= 3);
        if (match > 0 && socket->address.ss_family != AF_UNIX)
                expect(((const struct sockaddr_in *)&before.address)->sin_port ==
                       ((const struct sockaddr_in *)&socket->address)->sin_port);
        before = *socket;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };

        while (input.len > 0) {
                char *line = input_text(&input, '\n');
                struct listening_socket socket;

                if (listening_read_inet(line, AF_INET, &socket)) {
                        expect(socket.address.ss_family == AF_INET);
                        check_socket(&socket);
                }
                if (listening_read_inet(line, AF_INET6, &socket)) {
                        expect(socket.address.ss_family == AF_INET6);
                        check_socket(&socket);
                }
                if (listening_read_unix(line, &socket)) {
                        const struct sockaddr_un *address = (const struct sockaddr_un *)&socket.address;

                        expect(memchr(address->sun_path, '\0', sizeof(address->sun_path)) && address->sun_path[0]);
                        check_socket(&socket);
                }
                free(line);
        }
        return 0;
}
