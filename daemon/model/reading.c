#include "daemon/model/reading.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"

/* Smaller files are no weights. */
#define FILE_SIZE_MIN (UINT64_C(8) << 20)

/* A process has more descriptors than this only for connections. */
#define DESCRIPTORS_MAX 4096
#define MAPPINGS_MAX 65536

void reading_init(struct reading *reading) {
        *reading = (struct reading){ 0 };
}

unsigned reading_count_parts(const char *name) {
        unsigned parts = 1;

        for (const char *of = strstr(name, "-of-"); of; of = strstr(of + 1, "-of-")) {
                const char *digits = of + strlen("-of-");
                size_t n = strspn(digits, "0123456789");

                if (of > name && isdigit((unsigned char)of[-1]) && n > 0 && n <= 6)
                        parts = (unsigned)strtoul(digits, NULL, 10);
        }
        return MAX(parts, 1u);
}

/* A file that is open, or mapped up to `size`. */
static void add_file(struct reading *reading, ino_t inode, uint64_t size, const char *name) {
        for (unsigned i = 0; i < reading->count; i++)
                if (reading->files[i].inode == inode) {
                        reading->files[i].size = MAX(reading->files[i].size, size);
                        return;
                }
        if (reading->count < READING_FILES_MAX)
                reading->files[reading->count++] = (struct reading_file){ inode, size, reading_count_parts(name) };
}

static void add_descriptor(struct reading *reading, int directory, const char *descriptor) {
        char name[PATH_MAX];
        struct stat link;
        struct statx file;
        ssize_t n;

        /* Open for reading alone: the mode of the link says so, proc(5). Of a file server nothing is asked anew. */
        if (fstatat(directory, descriptor, &link, AT_SYMLINK_NOFOLLOW) < 0 || (link.st_mode & (S_IRUSR | S_IWUSR)) != S_IRUSR ||
            statx(directory, descriptor, AT_STATX_DONT_SYNC, STATX_TYPE | STATX_SIZE | STATX_INO, &file) < 0 ||
            !S_ISREG(file.stx_mode) || file.stx_size < FILE_SIZE_MIN)
                return;
        n = readlinkat(directory, descriptor, name, sizeof(name) - 1);
        name[MAX(n, 0)] = '\0';
        add_file(reading, file.stx_ino, file.stx_size, name);
}

static void add_files(struct reading *reading, int process) {
        int fd = openat(process, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *directory = fd < 0 ? NULL : fdopendir(fd);
        struct dirent *entry;

        if (!directory) {
                util_close(fd);
                return;
        }
        for (unsigned i = 0; i < DESCRIPTORS_MAX && (entry = readdir(directory)); i++)
                if (isdigit((unsigned char)entry->d_name[0]))
                        add_descriptor(reading, fd, entry->d_name);
        closedir(directory);
}

/* A line of maps, proc(5): a file whose descriptor was closed may still be read. Programs and libraries are none of them. */
static void add_mapping(struct reading *reading, const char *line) {
        uint64_t begin, end, offset, inode;
        char mode[5];
        int name = 0;

        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %*x:%*x %" SCNu64 " %n", &begin, &end, mode, &offset, &inode, &name) != 5 ||
            name == 0 || inode == 0 || mode[0] != 'r' || mode[1] == 'w' || mode[2] == 'x' || end - begin < FILE_SIZE_MIN ||
            line[name] != '/' || strstr(line + name, ".so"))
                return;
        add_file(reading, (ino_t)inode, offset + (end - begin), line + name);
}

static void add_mappings(struct reading *reading, int process) {
        _cleanup_close_ int fd = openat(process, "maps", O_RDONLY | O_CLOEXEC);
        FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
        char line[PATH_MAX + 256];

        if (!file)
                return;
        fd = -1;
        for (unsigned i = 0; i < MAPPINGS_MAX && fgets(line, sizeof(line), file); i++)
                add_mapping(reading, line);
        fclose(file);
}

/* The number behind `key` in a file of the process's directory; 0: it is not there. */
static uint64_t read_number(int process, const char *path, const char *key) {
        _cleanup_close_ int fd = openat(process, path, O_RDONLY | O_CLOEXEC);
        char text[4096];
        ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
        const char *found;

        text[MAX(n, 0)] = '\0';
        found = strstr(text, key);
        return found ? strtoull(found + strlen(key), NULL, 10) : 0;
}

void reading_begin(struct reading *reading) {
        /* What was read up to the last look, at which no file was open yet, was nothing of them. */
        if (reading->count == 0) {
                reading->base = reading->read;
                reading->mapped_base = reading->mapped;
        }
        reading->read = reading->mapped = 0;
}

void reading_add(struct reading *reading, pid_t pid) {
        _cleanup_close_ int process = -1;
        char path[32];

        snprintf(path, sizeof(path), "/proc/%d", (int)pid);
        process = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (process < 0)
                return;
        add_files(reading, process);
        add_mappings(reading, process);
        reading->read += read_number(process, "io", "rchar: ");
        reading->mapped += read_number(process, "status", "RssFile:") * 1024;
}

bool reading_end(struct reading *reading, uint64_t *read, uint64_t *size) {
        const uint64_t by_read = reading->read > reading->base ? reading->read - reading->base : 0;
        const uint64_t by_mapping = reading->mapped > reading->mapped_base ? reading->mapped - reading->mapped_base : 0;
        uint64_t set = 0;
        unsigned open = 0, parts = 0;

        *size = 0;
        for (unsigned i = 0; i < reading->count; i++) {
                const struct reading_file *file = &reading->files[i];

                *size += file->size;
                if (file->parts > 1) {
                        set += file->size;
                        open++;
                        parts = MAX(parts, file->parts);
                }
        }
        /* Of a set that is opened one after the other, the rest is as large as what is known of it. */
        if (open > 0 && parts > open)
                *size += set / open * (parts - open);
        /* One or the other: a file that is mapped is not read as well. */
        *read = MIN(MAX(by_read, by_mapping), *size);
        return *size > 0;
}
