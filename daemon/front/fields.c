#include "daemon/front/fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/util.h"

#define LETTERS "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

bool fields_is_token(const char *text) {
        return *text && !text[strspn(text, "!#$%&'*+-.^_`|~" LETTERS)];
}

bool fields_is_authority(const char *text, size_t len) {
        return strspn(text, "-._~%!$&'()*+,;=:[]" LETTERS) >= len;
}

/* Nobody is to take the end of a value for the end of a line: RFC 9110, 5.5. */
static bool is_field(const char *name, const char *value) {
        if (!fields_is_token(name))
                return false;
        for (const unsigned char *p = (const unsigned char *)value; *p; p++)
                if ((*p < 0x20 && *p != '\t') || *p == 0x7f)
                        return false;
        return true;
}

bool fields_is_hop_by_hop(const char *name) {
        static const char *const names[] = {
                "Connection", "Content-Length", "Keep-Alive",        "Proxy-Authenticate", "Proxy-Authorization",
                "Proxy-Connection", "TE",       "Trailer", "Transfer-Encoding", "Upgrade",
        };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (strcasecmp(name, names[i]) == 0)
                        return true;
        return false;
}

bool fields_is_listed(const char *list, const char *name) {
        size_t name_len = strlen(name);

        while (*list) {
                size_t len;

                list += strspn(list, ", \t");
                len = strcspn(list, ", \t");
                if (len == name_len && strncasecmp(list, name, len) == 0)
                        return true;
                list += len;
        }
        return false;
}

static enum MHD_Result look_at_field(void *user, enum MHD_ValueKind kind, const char *name, const char *value) {
        struct fields *fields = user;

        (void)kind;
        if (!value)
                value = "";
        fields->malformed |= !is_field(name, value);
        if (strcasecmp(name, "Host") == 0) {
                fields->hosts++;
                fields->host = value;
        } else if (strncasecmp(name, "Content-Length", 14) == 0) {
                fields->lengths++;
                fields->malformed |= name[14] != 0;
        } else if (strncasecmp(name, "Transfer-Encoding", 17) == 0) {
                fields->encodings++;
                /* libmicrohttpd up to 0.9.75 adds what a folded line goes on with to the name. */
                fields->malformed |= name[17] != 0;
                fields->chunked = strcasecmp(value, "chunked") == 0;
        } else if (strcasecmp(name, "Expect") == 0)
                fields->expect = value;
        else if (strcasecmp(name, "X-Request-Id") == 0)
                fields->request_id = value;
        else if (strcasecmp(name, "Connection") == 0) {
                if (fields->connection_count < FIELDS_CONNECTION_MAX)
                        fields->connections[fields->connection_count++] = value;
                else
                        fields->malformed = true;
        }
        return MHD_YES;
}

void fields_read(struct fields *fields, struct MHD_Connection *connection) {
        *fields = (struct fields){ 0 };
        (void)MHD_get_connection_values(connection, MHD_HEADER_KIND, look_at_field, fields);
}

/* Whether it goes on to the model; Host, for there is one in any case, does so beside. */
static bool is_passed(const struct fields *fields, const char *name) {
        if (fields_is_hop_by_hop(name) || strcasecmp(name, "Expect") == 0 || strcasecmp(name, "Host") == 0)
                return false;
        for (size_t i = 0; i < fields->connection_count; i++)
                if (fields_is_listed(fields->connections[i], name))
                        return false;
        return true;
}

static enum MHD_Result measure_field(void *user, enum MHD_ValueKind kind, const char *name, const char *value) {
        struct fields *fields = user;

        (void)kind;
        if (is_passed(fields, name)) {
                fields->count++;
                fields->size += strlen(name) + 2 + strlen(value ? value : "") + 1;
        }
        return MHD_YES;
}

static void add_line(struct fields *fields, const char *name, const char *value) {
        fields->lines[fields->count++] = fields->at;
        fields->at += 1 + (*value ? sprintf(fields->at, "%s: %s", name, value) : sprintf(fields->at, "%s;", name));
}

static enum MHD_Result take_field(void *user, enum MHD_ValueKind kind, const char *name, const char *value) {
        struct fields *fields = user;

        (void)kind;
        if (is_passed(fields, name))
                add_line(fields, name, value ? value : "");
        return MHD_YES;
}

char *fields_pass_on(struct fields *fields, struct MHD_Connection *connection, const char *host, size_t host_len,
                     const char *via, const char *const **lines, size_t *count) {
        char *memory;

        fields->count = fields->size = 0;
        (void)MHD_get_connection_values(connection, MHD_HEADER_KIND, measure_field, fields);
        fields->size += sizeof("Host: ") + host_len + sizeof("Via: ") + strlen(via);
        memory = malloc((fields->count + 2) * sizeof(char *) + fields->size);
        if (!memory)
                return NULL;
        fields->lines = (const char **)(void *)memory;
        fields->at = memory + (fields->count + 2) * sizeof(char *);
        fields->count = 0;
        if (host_len > 0) {
                fields->lines[fields->count++] = fields->at;
                fields->at += 1 + sprintf(fields->at, "Host: %.*s", (int)host_len, host);
        }
        (void)MHD_get_connection_values(connection, MHD_HEADER_KIND, take_field, fields);
        add_line(fields, "Via", via);
        *lines = fields->lines;
        *count = fields->count;
        return memory;
}
