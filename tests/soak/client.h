#pragma once

/*
 * One client: what it says, how it says it, and whether it hears what it has to. What it does not hear, or hears otherwise,
 * is noted with soak_wrong().
 */

#include <stdbool.h>
#include <stdint.h>

#include "common/line.h"
#include "tests/soak/chance.h"
#include "tests/soak/script.h"
#include "tests/soak/site.h"
#include "tests/soak/web.h"

struct client {
        struct site *site;
        enum character character;
        struct chance chance;
        int epoll_fd;
        int fd;                 /* -1: it has not come yet, or has gone */

        /* How it is. */
        bool web;
        bool over_tcp;
        uint64_t begins;        /* when it says its first word, nanoseconds of CLOCK_MONOTONIC */
        uint64_t pace;          /* nanoseconds between two bytes; 0: as they are taken */
        size_t burst;           /* so many bytes at once */
        size_t window;          /* so many commands that have no answer yet */
        bool half_closes;
        bool vanishes;
        size_t vanish_at;       /* when so much was sent, */
        uint64_t vanish_after;  /* and then so many nanoseconds later */
        bool deaf;              /* does not read until nothing more is taken from it */
        unsigned patience;      /* looks, until that is believed */

        struct script script;
        size_t sent;
        size_t left;            /* commands that left as a whole */
        size_t requests;        /* requests among them */
        size_t requests_answered;
        size_t answered;        /* commands */
        struct line line;
        struct web answers;
        uint64_t due;           /* when it does something of itself */
        size_t sent_before;     /* at the last look */
        uint32_t events;        /* that it waits for */
        bool finished;          /* it has closed its writing side */
        bool switched;          /* it is a tunnel */
        bool timed_out;         /* it was told that its request comes too slowly */
};

/* A client that is not there. */
#define CLIENT_NULL { .fd = -1, .due = UINT64_MAX }

/* Decides how this one is. `stays`: it does not vanish. */
void client_plan(struct client *client, uint64_t seed, uint64_t serial, bool stays);

/* It connects; `now` in nanoseconds. */
void client_come(struct client *client, uint64_t now);

/* It is connected, or comes again, for there was no room. */
static inline bool client_is_here(const struct client *client) {
        return client->fd >= 0 || client->due != UINT64_MAX;
}

/* What epoll says of its descriptor; or its time has come. */
void client_ready(struct client *client, uint32_t events, uint64_t now);
void client_due(struct client *client, uint64_t now);

/* It has something to say, a byte now and then, in rounds to come, too. */
static inline bool client_is_slow(const struct client *client) {
        return client->pace > 0 && client->character != CHARACTER_WEB_LATE;
}

/* Has nothing under way, but perhaps a part of a command. */
static inline bool client_is_quiet(const struct client *client) {
        return client->answered == client->left;
}

/* It ends the command that it is at, as fast as it can, hears what is left to hear, and goes. */
void client_hurry(struct client *client, uint64_t now);

/* What it waits for, for somebody to read. */
void client_describe(const struct client *client);

/* Nothing is expected of it any more. */
void client_drop(struct client *client);
