/*
 * A model of the places (--max-inflight) that the lanes of all workers share: each step that another thread can see is a step
 * of its own.
 *
 * take()           daemon/queue/places.c: places_take()
 * register()       places_wait()
 * leave()          places_leave()
 * claim()          places_claim()
 * give_back()      places_give_back(); with NONE for no lane of its own
 * pass_on()        places_pass_on()
 * find_oldest(), scan()   find_oldest(): the lanes one by one
 * lane             daemon/queue/lane.c and lane_*.c, one thread each. In it:
 *   arrive(), handle()   lane_request(), handle(), goes_at_once(), wait_for_turn()
 *   settle()             lane_settle_waiting()
 *   release()            release(), with start()
 *   keep_turn(), give_up_turn()   the same with lane_
 *   list_changed()       the same, of lane_forget(), timeout_elapsed() of a waiting request, and others
 *   end_inference()      lane_ended() with lane_leave_in_flight() and send_again(); model_cancel() is the same
 *   follow()             lane_follow()
 * main_thread      opens the gate or fails it, finds a suspected model alive, begins the next generation, stops
 *
 * Requests are numbered in the order of arrival, and come to any lane, before the gate opens or after. A compare-and-swap
 * loop is one step: it has an effect only in the step that succeeds. A letter and its wake-up are one step; gate.pml takes
 * them apart.
 *
 * What holds in every state:
 *
 *   - Requests in flight never exceed the places, nor do the places that are taken.
 *   - At rest (no lane is in a turn, no letter, edge or job is pending) each place that is taken is with a request in
 *     flight, or it was given to a lane that has requests and whose gate is pending or whose model is suspected: then no
 *     lane can use it. No request that could go waits while a place is free.
 *   - In the end all requests are over, all places are free, and no lane is counted as waiting.
 *   - A lane that has waiting requests and is not in a turn is registered, also at a pending gate and while the model is
 *     suspected; unless its session is busy, or was and the lane has not settled since.
 *   - Order of arrival. A new request takes no place while an older one waits in a lane that is registered, or is to be. A
 *     lane claims no place for its oldest request if another lane had an older one, and was registered or was to be, before
 *     the claim looked for it, and if that still is so when the claim has looked. So a newer request overtakes only
 *       - requests whose lane registers while the claim looks; those that come back from the model have arrived before, but
 *         have their turn from then on;
 *       - requests of a lane whose session is busy, until the lane has settled after that.
 *
 * Not in it: requests that are sent again after a while (put_off()), which come back like those that were lost; lanes that
 * are leaving, whose gate is pending and does not open any more; portions of a turn.
 *
 * Mutants, each of which check.sh finds to be wrong:
 *
 * DROP_OFFER       a lane whose only request has left drops the place that it is given (as msd did once)
 * KEEP_OFFER       a lane whose session is busy keeps the place that it is given
 * KEEP_REFUSED     a lane whose requests were refused keeps it
 * IGNORE_OFFER     a lane at a pending gate does nothing: it keeps a place that it was given when its last request had just
 *                  left, and does not register again when its session is busy no more
 * LOSE_TURN        a lane that cannot use a place because its gate is pending or the model suspected gives its turn up, and
 *                  the place (as msd did once)
 * OVERSHOOT        a place is taken by fetch-and-add, and given back if there was none
 * COUNT_FIRST      a lane is counted before it says how old its request is
 * CLEAR_FIRST      a lane that leaves clears that before it is uncounted
 * IGNORE_LANES     a new request takes a free place although a lane waits
 * CLAIM_BLINDLY    a claim does not look for older requests
 * LOOK_AGAIN       a claim reads how old the oldest request is a second time, after it has looked for it
 * ONE_CLAIM        a claim that gives its place to an older request looks for no other
 * NO_CLAIM         a lane registers, and does not try
 * NO_RESCAN        a place is freed when no lane was found, though lanes were counted
 * NO_EXCHANGE      that no lane waits is a look, and freeing the place is a step after it
 * STAY             a lane whose session is busy stays registered, and passes places on
 * NO_RESUME        a lane that was resumed does not settle
 */

#ifndef LANES
#define LANES 2
#endif
#ifndef PLACES
#define PLACES 1
#endif
#ifndef REQUESTS
#define REQUESTS 3
#endif
#ifndef GENERATIONS
#define GENERATIONS 1
#endif
/* So many requests wait at the gate to begin with, request r in lane r modulo LANES. */
#ifndef EARLY
#define EARLY 0
#endif
/* FIXED: request r comes to lane r modulo LANES, and not to any. */
#ifdef FIXED
#define COMES_TO(w) (next % LANES == w)
#else
#define COMES_TO(w) 1
#endif
/* So many requests may leave or time out while they wait. */
#ifndef DEPARTURES
#define DEPARTURES 1
#endif
/* So many inferences may be lost: the model is suspected then. */
#ifndef LOSSES
#define LOSSES 0
#endif
/* So often the session may have no connection. */
#ifndef BUSY
#define BUSY 0
#endif
/* So many inferences may end while they are started. */
#ifndef SYNCHRONOUS
#define SYNCHRONOUS 0
#endif

#define PENDING 0
#define OPEN 1
#define FAILED 2

#define NONE 255

#define LETTER_CLAIM 1
#define LETTER_RESUME 2
#define LETTER_FOLLOW 4

/* struct places. */
byte taken;
byte waiting_lanes;
byte oldest[LANES];             /* number of the request, from 1 on */
byte given[LANES];

/* The generations. */
byte generation;
byte state[GENERATIONS];
byte suspicions[GENERATIONS];
bit stopping;

/* What wakes the lanes. */
byte letters[LANES];
bit edge[LANES];
byte followed[LANES];           /* the lane's generation */

/* The lanes' requests: bit r is request r. */
byte waiting[LANES];
byte flying[LANES];
byte next;
byte departures = DEPARTURES, losses = LOSSES, refusals = BUSY, synchronous = SYNCHRONOUS;

/* Each lane's own, here so that the assertions see it. */
bit counted[LANES];             /* places_lane.waits */
bit busy[LANES];
bit job[LANES];

/* For the assertions alone. */
byte in_flight;
byte turning;                   /* lanes in a turn; bit w is lane w */
byte older[LANES];              /* lanes with an older request since the claim of this lane began to look for them */
bit posting;                    /* the main thread has not posted all its letters yet */

#define IS_OPEN(w) (state[followed[w]] == OPEN && suspicions[followed[w]] == 0 && !stopping)
#define REFUSES(w) (state[followed[w]] == FAILED || stopping)
/* Lane w is not in a turn, and its requests wait for a place, the gate, or a suspected model. */
#define STANDS(w) (waiting[w] != 0 && !busy[w] && !job[w] && !(turning & (1 << w)))

inline lowest(set, result) {
        result = 0;
        do
        :: !(set & (1 << result)) -> result++
        :: else -> break
        od
}

/* Nobody is sure any more that lane w has an older request than another. */
inline forget_older() {
        i = 0;
        do
        :: i < LANES -> older[i] = older[i] & ~(1 << w); i++
        :: else -> break
        od;
        i = 0
}

inline note_older() {
        i = 0;
        older[w] = 0;
        do
        :: i < LANES ->
                if
                :: i != w && ((counted[i] && oldest[i] > 0 && oldest[i] < oldest[w]) ||
                              (STANDS(i) && (waiting[i] & ((1 << (oldest[w] - 1)) - 1)))) -> older[w] = older[w] | (1 << i)
                :: else
                fi;
                i++
        :: else -> break
        od;
        i = 0
}

/* --- places.c. `got`, `first`, `low`, `i` are for a moment. */

inline take() {
#ifdef OVERSHOOT
        d_step {
                got = (waiting_lanes == 0 && taken < PLACES);
                taken++
        }
        if
        :: !got -> taken--
        :: else
        fi
#else
        d_step {
#ifdef IGNORE_LANES
                got = (taken < PLACES);
#else
                got = (waiting_lanes == 0 && taken < PLACES);
#endif
                if
                :: got ->
                        taken++;
                        i = 0;
                        do
                        :: i < LANES ->
                                assert(!(counted[i] && oldest[i] > 0 && oldest[i] <= q) &&
                                       !(STANDS(i) && (waiting[i] & ((1 << q) - 1))));
                                i++
                        :: else -> break
                        od;
                        i = 0
                :: else
                fi
        }
#endif
}

/* The lane has requests that wait. */
inline register() {
#ifdef COUNT_FIRST
        d_step {
                if
                :: !counted[w] -> waiting_lanes++; counted[w] = 1
                :: else
                fi
        }
#endif
        d_step {
                lowest(waiting[w], i);
                if
                :: oldest[w] != i + 1 -> oldest[w] = i + 1; forget_older()
                :: else
                fi;
                i = 0
        }
#ifndef COUNT_FIRST
        if
        :: d_step { !counted[w] -> waiting_lanes++; counted[w] = 1 }
        :: counted[w]
        fi
#endif
}

inline leave() {
        if
        :: counted[w] ->
#ifdef CLEAR_FIRST
                d_step { oldest[w] = 0; forget_older() }
                d_step { waiting_lanes--; counted[w] = 0 }
#else
                d_step { waiting_lanes--; counted[w] = 0; forget_older() }
                oldest[w] = 0
#endif
        :: else
        fi
}

inline scan(v) {
        if
        :: oldest[v] > 0 && oldest[v] < low -> low = oldest[v]; first = v
        :: else
        fi
}

/* But for the last lane. */
inline find_oldest() {
        d_step { first = NONE; low = NONE; scan(0) }
#if LANES > 2
        d_step { scan(1) }
#endif
}

inline give(v) {
        given[v]++;
        letters[v] = letters[v] | LETTER_CLAIM
}

inline claim() {
        got = 0;
        do
        :: d_step { given[w] > 0 -> given[w]--; note_older() }
                look_for_older()
        :: given[w] == 0 ->
                if
#ifdef OVERSHOOT
                :: d_step { taken < PLACES -> taken++; note_older() }
                        look_for_older()
                :: taken >= PLACES -> taken++; taken--; break
#else
                :: d_step { taken < PLACES -> taken++; note_older() }
                        look_for_older()
                :: else -> break
#endif
                fi
        od;
        first = 0; low = 0
}

#if defined(CLAIM_BLINDLY)
#define IS_FIRST 1
#elif defined(LOOK_AGAIN)
#define IS_FIRST (first == NONE || first == w || oldest[first] >= oldest[w])
#else
#define IS_FIRST (low >= oldest[w])
#endif

inline look_for_older() {
        find_oldest();
#ifdef LOOK_AGAIN
        d_step { scan(LANES - 1) }
#endif
        d_step {
#ifndef LOOK_AGAIN
                scan(LANES - 1);
#endif
                got = IS_FIRST;
                assert(!got || older[w] == 0);
                older[w] = 0;
                if
                :: got -> first = 0; low = 0
                :: else
                fi
        }
        if
        :: got -> break
        :: else -> give(first);
#ifdef ONE_CLAIM
                break
#endif
        fi
}

inline give_back(own) {
        do
#ifdef NO_EXCHANGE
        :: waiting_lanes == 0 -> skip; taken--; break
#else
        :: d_step { waiting_lanes == 0 -> taken-- } break
#endif
        :: waiting_lanes > 0 ->
                find_oldest();
                d_step { scan(LANES - 1) }
                if
                :: first != NONE && first == own -> d_step { given[w]++; job[w] = 1 } break
                :: first != NONE && first != own -> give(first); break
#ifdef NO_RESCAN
                :: first == NONE -> taken--; break
#else
                :: first == NONE
#endif
                fi
        od;
        first = 0; low = 0
}

inline pass_on() {
        do
        :: d_step { given[w] > 0 -> given[w]-- }
                give_back(NONE)
        :: else -> break
        od
}

/* --- A lane. */

inline follow() {
        d_step {
                if
                :: followed[w] != generation ->
                        followed[w] = generation;
                        edge[w] = (state[generation] != PENDING)
                :: else
                fi
        }
}

inline start(r) {
        in_flight++;
        assert(in_flight <= PLACES);
        flying[w] = flying[w] | (1 << r)
}

inline end(r) {
        in_flight--;
        flying[w] = flying[w] & ~(1 << r)
}

inline release() {
        do
        :: waiting[w] == 0 || busy[w] || !IS_OPEN(w) -> break
        :: else ->
                register();
                claim();
                if
                :: !got -> s = 1; break
                :: else
                fi;
                d_step {
                        got = 0;
                        lowest(waiting[w], q);
                        waiting[w] = waiting[w] & ~(1 << q);
                        start(q)
                }
                if
                :: skip
                :: atomic { refusals > 0 -> refusals--; end(q) };
                        give_back(w);
                        d_step { busy[w] = 1; waiting[w] = waiting[w] | (1 << q) }
                :: atomic { synchronous > 0 -> synchronous--; end(q) };
                        give_back(w)
                fi;
                q = 0
        od;
        if
        :: s -> s = 0
        :: else -> list_changed()
        fi
}

inline keep_turn() {
        if
        :: !busy[w] -> register()
        :: else
        fi
}

inline give_up_turn() {
        leave();
        pass_on()
}

inline list_changed() {
        if
#if defined(LOSE_TURN)
        :: waiting[w] == 0 || busy[w] || !IS_OPEN(w) -> give_up_turn()
#elif defined(DROP_OFFER)
        :: waiting[w] == 0 -> leave()
        :: waiting[w] != 0 && busy[w] -> give_up_turn()
#elif defined(KEEP_OFFER)
        :: waiting[w] == 0 -> give_up_turn()
        :: waiting[w] != 0 && busy[w] -> leave()
#elif defined(STAY)
        :: waiting[w] == 0 -> give_up_turn()
        :: waiting[w] != 0 && busy[w] -> pass_on()
#else
        :: waiting[w] == 0 || busy[w] -> give_up_turn()
#endif
        :: else -> register()
        fi
}

inline settle() {
        if
        :: REFUSES(w) ->
                waiting[w] = 0;
#ifdef KEEP_REFUSED
                leave()
#else
                give_up_turn()
#endif
        :: !REFUSES(w) && state[followed[w]] == PENDING ->
#if defined(LOSE_TURN)
                if
                :: given[w] > 0 -> give_up_turn()
                :: else
                fi
#elif defined(IGNORE_OFFER)
                skip
#else
                list_changed()
#endif
        :: !REFUSES(w) && state[followed[w]] == OPEN -> release()
        fi
}

/* A request has come: q. */
inline handle() {
        follow();
        if
        :: REFUSES(w)
        :: !REFUSES(w) ->
                if
                :: IS_OPEN(w) && waiting[w] == 0 && !busy[w] -> take()
                :: else
                fi;
                if
                :: got -> d_step { got = 0; start(q) }
                :: else ->
                        waiting[w] = waiting[w] | (1 << q);
#ifdef LOSE_TURN
                        if
                        :: state[followed[w]] == OPEN && !IS_OPEN(w)
                        :: else -> keep_turn()
                        fi;
#else
                        keep_turn();
#endif
#ifndef NO_CLAIM
                        if
                        :: IS_OPEN(w) && !busy[w] -> job[w] = 1
                        :: else
                        fi
#endif
                fi
        fi;
        q = 0
}

/* `q` is in flight no more. It may have been lost; with a kept connection alone, or for the second time: then it fails. */
inline end_inference() {
        give_back(w);
        if
        :: skip
        :: atomic { losses > 0 -> losses-- };
                follow();
                if
                :: REFUSES(w)
                :: !REFUSES(w) && state[followed[w]] == PENDING -> put_back(); job[w] = 1
                :: !REFUSES(w) && state[followed[w]] == OPEN ->
                        if
                        :: put_back(); job[w] = 1
                        :: put_back(); suspicions[followed[w]]++
                        :: suspicions[followed[w]]++
                        fi
                fi
        fi;
        q = 0
}

inline put_back() {
        waiting[w] = waiting[w] | (1 << q);
#ifndef LOSE_TURN
        keep_turn()
#endif
}

inline at_rest() {
        d_step {
                turning = turning & ~(1 << w);
#ifndef LOSE_TURN
                /* It is to be found wrong by the order. */
                assert(waiting[w] == 0 || counted[w] || busy[w] || job[w]);
#endif
                rest = (turning == 0 && !posting);
                i = 0;
                do
                :: i < LANES -> rest = (rest && !letters[i] && !edge[i] && !job[i]); i++
                :: else -> break
                od;
                i = 0;
                do
                :: rest && i < LANES ->
                        assert(followed[i] == generation);
                        assert(given[i] == 0 || (waiting[i] != 0 && !busy[i] && !IS_OPEN(i)));
                        kept = kept + given[i];
                        assert(taken == PLACES || waiting[i] == 0 || busy[i] || !IS_OPEN(i));
                        i++
                :: else -> break
                od;
                assert(!rest || taken == in_flight + kept);
                i = 0; kept = 0; rest = 0
        }
}

proctype lane(byte w) {
        byte q, i, first, low, l, kept;
        bit got, s, rest;

turn:
end_wait:
        if
        :: atomic { letters[w] != 0 -> turning = turning | (1 << w); l = letters[w]; letters[w] = 0 };
                if
                :: l & (LETTER_CLAIM | LETTER_FOLLOW) -> follow()
                :: else
                fi;
                if
#ifdef NO_RESUME
                :: l & LETTER_CLAIM -> l = 0; settle()
#else
                :: l & (LETTER_CLAIM | LETTER_RESUME) -> l = 0; settle()
#endif
                :: else -> l = 0
                fi
        :: atomic { edge[w] -> turning = turning | (1 << w); edge[w] = 0 }; settle()
        :: atomic { job[w] -> turning = turning | (1 << w); job[w] = 0 }; settle()
        :: atomic { next < REQUESTS && COMES_TO(w) -> turning = turning | (1 << w); q = next; next++ }; handle()
        :: atomic { departures > 0 && waiting[w] != 0 ->
                turning = turning | (1 << w);
                departures--;
                do
                :: waiting[w] & (1 << i) -> waiting[w] = waiting[w] & ~(1 << i); i = 0; break
                :: waiting[w] >> (i + 1) -> i++
                od };
                list_changed()
        :: atomic { flying[w] != 0 -> turning = turning | (1 << w); lowest(flying[w], q); end(q) }; end_inference()
        :: atomic { busy[w] -> turning = turning | (1 << w); busy[w] = 0; job[w] = 1 }
        fi;
        at_rest();
        goto turn
}

/* --- The main thread. */

inline post_all(letter) {
        posting = 1;
        do
        :: d_step { k < LANES -> letters[k] = letters[k] | letter; k++ }
        :: else -> break
        od;
        k = 0; posting = 0
}

inline gate_settle(to) {
        d_step { state[generation] = to; posting = 1 }
        d_step {
                k = 0;
                do
                :: k < LANES ->
                        if
                        :: followed[k] == generation -> edge[k] = 1
                        :: else
                        fi;
                        k++
                :: else -> break
                od;
                k = 0; posting = 0
        }
}

proctype main_thread() {
        byte k;

loading:
        if
        :: gate_settle(OPEN)
#ifdef FAILING
        :: gate_settle(FAILED)
#endif
#ifdef STOP
        :: d_step { stopping = 1; posting = 1 } post_all(LETTER_RESUME); goto stopped
#endif
        fi;
end_wait:
        do
        :: d_step { suspicions[generation] > 0 -> suspicions[generation] = 0; posting = 1 }
                post_all(LETTER_RESUME)
        :: d_step { generation + 1 < GENERATIONS -> generation++; posting = 1 }
                post_all(LETTER_FOLLOW);
                goto loading
#ifdef STOP
        :: d_step { stopping = 1; posting = 1 } post_all(LETTER_RESUME); goto stopped
#endif
        od;
stopped:
        skip
}

/* When nothing can happen any more. */
proctype accountant() {
        byte w;

        timeout;
        assert(next == REQUESTS && taken == 0 && waiting_lanes == 0);
        do
        :: w < LANES -> assert(waiting[w] == 0 && flying[w] == 0 && given[w] == 0); w++
        :: else -> break
        od
}

init {
        byte i;

        atomic {
                do
                :: next < EARLY ->
                        i = next % LANES;
                        if
                        :: !counted[i] -> counted[i] = 1; waiting_lanes++; oldest[i] = next + 1
                        :: else
                        fi;
                        waiting[i] = waiting[i] | (1 << next);
                        next++
                :: else -> break
                od;
                i = 0;
                do
                :: i < LANES -> run lane(i); i++
                :: else -> break
                od;
                run main_thread();
#ifdef ACCOUNT
                run accountant();
#endif
        }
}
