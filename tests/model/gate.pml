/*
 * A model of the gate: what crosses threads on a request's way, each step that another thread can see a step of its own.
 *
 * gate_settle()    daemon/loop/gate.c: gate_settle(), by gate_open() and gate_fail()
 * look()           daemon/loop/gate.c: gate_state()
 * write_event()    write(2) to an eventfd, and what the kernel does with it: every set that watches it has an edge
 * watch()          reactor_watch(): an edge, too, if the eventfd is readable already
 * unwatch()        reactor_unwatch(): also out of the batch that is being dispatched
 * post()           daemon/loop/mailbox.c: mailbox_post()
 * worker           daemon/worker.c: worker_run(), which is reactor_run(): a turn takes what is ready, dispatches it in any
 *                  order, then runs the jobs. What clients and the model send is always ready, and may be all that is taken: a
 *                  batch has an end. In it:
 *   deliver()            mailbox_ready(), worker_deliver()
 *   follow()             daemon/queue/lane.c: lane_follow()
 *   handle_request()     handle(), with wait_for_turn(), start(), fail()
 *   observe()            lane_observe() of a WAIT
 *   settle()             settle(), settle_waiting(): a portion, and the job that goes on with it
 *   settle_observer()    settle_observer()
 *   lose()               send_again()
 *   abandon()            lane_abandon()
 * main_thread      daemon/server.c: load_ready(), load_failed(), load_lost(), LETTER_LOAD, signals_ready(), server_deliver();
 *   begin_generation()   begin_generation(), with free_generations()
 *   shut_down()          model_server_shutdown()
 *   hand_over()          model_server_hand_over()
 *   its end              end_serving(): when all workers are drained or the time is over; here at any moment, or never
 * administrator    queue_shutdown(): a client's word, in the thread of the worker that heard it
 * rival            gate.h lets any thread settle a gate, the first counts: here one fails what the loader opens
 *
 * What is left out: places, time-outs of requests, clients that leave, and that nothing is sent to a model while it is suspected
 * (all of these are in places.pml); and parking but for its outcome (a request is left to a successor when its worker ends).
 * Steps are in one order for all threads here; whether the orders that gate.c asks of the processor suffice is for rounds.c
 * under ThreadSanitizer.
 *
 * Request r belongs to worker r modulo WORKERS, and comes at any moment, or never if its worker ends first. The sizes that are
 * looked at are in check.sh, the figures in README.md.
 *
 * Mutants, each of which check.sh finds to be wrong:
 *
 * WRITE_FIRST      the eventfd is written before the state is stored
 * NO_CLAIM         the state is stored at once, and then the reason is written
 * NO_EXCHANGE      the gate is claimed by a look and a store
 * LEVEL            the gate is watched level-triggered
 * READ_EVENT       who has the event reads the eventfd
 * STALE_BATCH      a watch that is taken out stays in the batch
 * NO_LOOK          a request waits without a look at the gate
 * NO_WATCH         the next gate is looked at, and not watched
 * ONE_PORTION      the job does not queue itself again
 * NOT_UNLINKED     what was answered stays in the list
 * STOP_FIRST       the stop comes before a generation that failed
 * GATE_FIRST       the gate is looked at before the stop, so that both may happen in between
 * ABANDON_BLINDLY  when the worker ends, what waits is told of the stop, whatever its gate is
 * FORGET_OBSERVERS and a WAIT is told nothing
 * NO_SUSPECT       who waits for the next generation tells nobody that this one may be lost
 * LETTERS_FIRST    the mailbox is drained after its letters were taken
 * FREE_AT_ONCE     a generation is freed when the next begins
 *
 * BATCH is SETTLE_BATCH. MAILBOX takes the letter and the write of a post apart, where it is otherwise one step.
 */

#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef REQUESTS
#define REQUESTS 3
#endif
#ifndef GENERATIONS
#define GENERATIONS 2
#endif
#ifndef BATCH
#define BATCH 1
#endif
/* So many workers have a WAIT as their first request. */
#ifndef OBSERVERS
#define OBSERVERS 0
#endif
/* So many requests may lose the model while they are with it; the others are answered when they start. */
#ifndef LOSSES
#define LOSSES 0
#endif
#if GENERATIONS > 2 || defined(FREE_AT_ONCE)
#define FREEING
#endif

/* A gate's state. */
#define PENDING 0
#define CLAIMED 1
#define OPEN 2
#define FAILED 3

#define STOP GENERATIONS        /* the stop gate's number */
#define NONE 255

/* Where a request is. */
#define COMING 0
#define WAITING 1
#define PROCESSING 2
#define OBSERVING 3
#define HEARD 4

#define LETTER_FOLLOW 1
#define LETTER_STOP 2
#define LETTER_LEAVE 4
#define LETTER_RESUME 8

/* The gates. */
byte state[GENERATIONS + 1];
bit written[GENERATIONS + 1];   /* the eventfd is readable */
bit reason[GENERATIONS];        /* is written */
bit first[GENERATIONS];         /* it failed, and the stop signal had not come */

/* The server. */
byte generation;
byte freed;                     /* the generations before this one are */
bit letter_shutdown;
bit letter_suspect;

/* The workers: what the kernel has for them, and their mailboxes. */
byte watched[WORKERS];
bit gate_edge[WORKERS];
bit stop_edge[WORKERS];
bit mail[WORKERS];
byte letters[WORKERS];
byte followed[WORKERS];         /* worker.generation */

/* The requests of all workers. */
byte accepted;
byte heard;

#define IS_READY(w) (gate_edge[w] || stop_edge[w] || mail[w])

#define IS_PENDING(g) (state[g] == PENDING || state[g] == CLAIMED)

/* In a step of its own, with what follows from it in the thread itself. */
inline look(g, result) {
        assert(g == STOP || g >= freed);
        result = (state[g] == CLAIMED -> PENDING : state[g])
}

inline write_event(g) {
        d_step {
                assert(!written[g]);
                written[g] = 1;
                i = 0;
                do
                :: i < WORKERS ->
                        if
                        :: g == STOP -> stop_edge[i] = 1
                        :: g != STOP && watched[i] == g -> gate_edge[i] = 1
                        :: else
                        fi;
                        i++
                :: else -> break
                od;
                i = 0
        }
}

inline store(g, to) {
        d_step {
                assert(state[g] != OPEN && state[g] != FAILED);
                state[g] = to;
                if
                :: to == FAILED && g != STOP -> first[g] = (state[STOP] != OPEN)
                :: else
                fi
        }
}

inline write_reason(g, to) {
        if
        :: to == FAILED -> reason[g] = 1
        :: else
        fi
}

/* Uses `i` of the process. */
inline gate_settle(g, to) {
        if
#if defined(NO_EXCHANGE)
        :: state[g] == PENDING -> skip;
                state[g] = CLAIMED;
#elif !defined(NO_CLAIM)
        :: atomic { state[g] == PENDING -> state[g] = CLAIMED };
#endif
#if defined(NO_CLAIM)
        :: atomic { state[g] == PENDING -> store(g, to) };
                write_reason(g, to);
                write_event(g)
#elif defined(WRITE_FIRST)
                write_reason(g, to);
                write_event(g);
                store(g, to)
#else
                write_reason(g, to);
                store(g, to);
                write_event(g)
#endif
        :: else
        fi
}

inline post(w, letter) {
#ifndef MAILBOX
        d_step { letters[w] = letters[w] | letter; mail[w] = 1 }
#else
        if
        :: atomic { letters[w] == 0 -> letters[w] = letter };
                mail[w] = 1
        :: atomic { letters[w] != 0 -> letters[w] = letters[w] | letter }
        fi
#endif
}

inline post_all(letter) {
        k = 0;
        do
        :: k < WORKERS -> post(k, letter); k++
        :: else -> break
        od;
        k = 0
}

/* --- A worker. `gen` is queue->generation; `s`, `stops`, `n`, `r`, `q`, `l` are for a moment. What is its own is looked at
 * together with the next that is not. */

inline hear(q) {
        assert(stage[q] != COMING && !told[q]);
        told[q] = 1;
#ifndef NOT_UNLINKED
        stage[q] = HEARD;
#endif
        heard++
}

inline hear_failure(q) {
        assert(state[gen] == FAILED && reason[gen]);
        hear(q)
}

/* For one that waits: a generation that failed comes before the stop. */
inline hear_shutdown(q) {
        assert(state[STOP] != PENDING);
        assert(!(state[gen] == FAILED && first[gen]));
        hear(q)
}

inline start(q) {
        assert(state[gen] == OPEN);
        if
        :: q < LOSSES -> stage[q] = PROCESSING; processing++
        :: else -> hear(q)
        fi
}

/* The first of two looks, at the stop and at the gate: at the stop, for what failed before it is seen then. */
inline look_first() {
#ifdef GATE_FIRST
        look(gen, s)
#else
        stops = !IS_PENDING(STOP)
#endif
}

inline look_second() {
#ifdef GATE_FIRST
        stops = !IS_PENDING(STOP)
#else
        look(gen, s)
#endif
}

/* The WAIT of this worker is its first request, which has the worker's number. */
inline settle_observer() {
        if
        :: w < OBSERVERS && stage[w] == OBSERVING ->
                d_step { look_first() }
                d_step {
                        look_second();
                        if
                        :: s == FAILED -> hear_failure(w)
                        :: s != FAILED && stops -> hear_shutdown(w)
                        :: s == OPEN && !stops -> hear(w)
                        :: else
                        fi;
                        s = 0; stops = 0
                }
        :: else
        fi
}

inline unwatch() {
        d_step {
                watched[w] = NONE;
                gate_edge[w] = 0;
#ifndef STALE_BATCH
                batch_gate = 0;
#endif
                fired = 0
        }
}

inline watch(g) {
        d_step {
                assert(g >= freed);
                watched[w] = g;
                gate_edge[w] = written[g]
        }
}

inline look_for_next() {
        s = generation;
        assert(gen >= freed)
}

inline follow() {
        if
        :: s != gen ->
                unwatch();
                gen = s;
                s = 0;
#ifndef NO_WATCH
                watch(gen);
#endif
                settle_observer()
        :: else -> s = 0
        fi
}

inline settle() {
        d_step {
                look_second();
                if
                :: s != PENDING || stops ->
                        r = w;
                        do
                        :: n < BATCH && r < REQUESTS ->
                                if
                                :: stage[r] == WAITING ->
                                        n++;
                                        if
#ifdef STOP_FIRST
                                        :: stops -> hear_shutdown(r)
                                        :: !stops && s == FAILED -> hear_failure(r)
#else
                                        :: s == FAILED -> hear_failure(r)
                                        :: s != FAILED && stops -> hear_shutdown(r)
#endif
                                        :: s == OPEN && !stops -> start(r)
                                        fi
                                :: else
                                fi;
                                r = r + WORKERS
                        :: else -> break
                        od
                :: else
                fi;
#ifndef ONE_PORTION
                if
                :: n == BATCH -> job = 1
                :: else
                fi;
#endif
                s = 0; stops = 0; r = 0; n = 0
        }
        settle_observer()
}

inline handle_request(q) {
        follow();
        d_step {
                look(STOP, s);
                if
                :: s != PENDING -> hear(q)
                :: else
                fi
        }
        if
        :: s == PENDING ->
                d_step {
#ifndef NO_LOOK
                        look(gen, s);
#endif
                        if
                        :: s == PENDING
                        :: s == OPEN -> start(q)
                        :: s == FAILED -> hear_failure(q)
                        fi
                }
        :: else
        fi;
        s = 0
}

inline observe() {
        follow();
        settle_observer()
}

inline arrive() {
        q = next;
        next = next + WORKERS;
        accepted++;
        stage[q] = (q < OBSERVERS -> OBSERVING : WAITING);
        look_for_next()
}

inline handle() {
        if
        :: q < OBSERVERS -> observe()
        :: else -> handle_request(q)
        fi;
        q = 0
}

/* The model is perhaps lost, and nothing was delivered of the answer. */
inline lose(q) {
        d_step { look_for_next() }
        follow();
        d_step { look(gen, s) }
        d_step {
                processing--;
                if
                :: resent[q] || !IS_PENDING(STOP) -> hear(q); s = PENDING
                :: !resent[q] && IS_PENDING(STOP) && s == FAILED -> hear_failure(q)
                :: else -> resent[q] = 1; stage[q] = WAITING
                fi
        }
#ifndef NO_SUSPECT
        if
        :: s == OPEN -> letter_suspect = 1
        :: else
        fi;
#endif
        s = 0
}

inline finish() {
        q = w;
        do
        :: stage[q] != PROCESSING -> q = q + WORKERS
        :: else -> break
        od
}

inline end_inference() {
        if
        :: d_step { processing--; hear(q) }
        :: lose(q)
        fi;
        q = 0
}

/* Those in flight hear of the shutdown, whatever the gate is: it was open to them. */
inline abandon() {
        d_step {
#ifndef ABANDON_BLINDLY
                look(gen, s);
#endif
                q = w;
                do
                :: q < REQUESTS ->
                        if
                        :: stage[q] == WAITING && !leaving && s == FAILED -> hear_failure(q)
                        :: stage[q] == WAITING && !leaving && s != FAILED -> hear_shutdown(q)
                        :: stage[q] == PROCESSING -> hear(q); processing--
#ifndef FORGET_OBSERVERS
                        :: stage[q] == OBSERVING && !leaving && s == FAILED -> hear_failure(q)
                        :: stage[q] == OBSERVING && !leaving && s != FAILED -> hear_shutdown(q)
#endif
                        :: else
                        fi;
                        q = q + WORKERS
                :: else -> break
                od;
                q = 0; s = 0
        }
}

inline deliver() {
#ifndef MAILBOX
        d_step { batch_mail = 0; mail[w] = 0; l = letters[w]; letters[w] = 0 }
#elif defined(LETTERS_FIRST)
        d_step { batch_mail = 0; l = letters[w]; letters[w] = 0 }
        mail[w] = 0;
#else
        d_step { batch_mail = 0; mail[w] = 0 }
        d_step { l = letters[w]; letters[w] = 0 }
#endif
        if
        :: l & LETTER_FOLLOW ->
                d_step { look_for_next() }
                follow();
#ifdef FREEING
                followed[w] = gen
#endif
        :: else
        fi;
        if
        :: l & LETTER_LEAVE -> leaving = 1; settle_observer()
        :: else
        fi;
        if
        :: l & LETTER_RESUME ->
                d_step { look_first() }
                settle()
        :: else
        fi;
        if
        :: l & LETTER_STOP -> abandon(); stopped = 1
        :: else
        fi;
        l = 0
}

/* When the event was taken and the last portion done: but for what the model may have lost, until that is known. */
inline nobody_waits() {
        d_step {
                q = w;
                do
                :: (fired || stop_fired) && !job && q < REQUESTS ->
                        assert(stage[q] != WAITING || told[q] || (resent[q] && !stop_fired) || leaving);
                        q = q + WORKERS
                :: else -> break
                od;
                q = 0
        }
}

proctype worker(byte w) {
        byte stage[REQUESTS];
        bit told[REQUESTS], resent[REQUESTS];
        byte gen, next = w, processing, s, n, r, q, l;
        bit stops, job, leaving, stopped;
        bit batch_gate, batch_stop, batch_mail;
        bit fired, stop_fired;

turn:
end_wait:
        if
        :: atomic { IS_READY(w) ->
                batch_gate = gate_edge[w];
                batch_stop = stop_edge[w];
                batch_mail = mail[w];
#ifdef LEVEL
                gate_edge[w] = (watched[w] != NONE -> written[watched[w]] : 0);
#else
                gate_edge[w] = 0;
#endif
                stop_edge[w] = 0 }
        :: job && !IS_READY(w)
        :: atomic { next < REQUESTS -> arrive() }; goto arrived
        :: atomic { processing > 0 -> finish() }; goto finished
        fi;

        do
        :: batch_gate -> d_step {
                /* gate_ready() */
                batch_gate = 0;
                assert(!fired);
                fired = 1;
                assert(state[gen] == OPEN || state[gen] == FAILED);
#ifdef READ_EVENT
                written[gen] = 0;
                do
                :: q < WORKERS ->
                        if
                        :: watched[q] == gen -> gate_edge[q] = 0
                        :: else
                        fi;
                        q++
                :: else -> break
                od;
                q = 0;
#endif
                look_first() }
                settle()
        :: batch_stop -> d_step {
                /* stop_ready() */
                batch_stop = 0;
                assert(!stop_fired);
                stop_fired = 1;
                leaving = 0;
                look_first() }
                settle()
        :: batch_mail -> deliver()
        :: next < REQUESTS -> atomic { arrive() }
arrived:
                handle()
        :: processing > 0 -> atomic { finish() }
finished:
                end_inference()
        :: !batch_gate && !batch_stop && !batch_mail -> break
        od;

        if
        :: job ->
                d_step { job = 0; look_first() }
                settle()
        :: else
        fi;
        nobody_waits();
        if
        :: !stopped -> goto turn
        :: else
        fi;

        /* What still waits is a successor's. */
        d_step {
                q = w;
                do
                :: q < REQUESTS ->
                        if
                        :: stage[q] == WAITING || stage[q] == OBSERVING ->
                                assert(leaving);
                                hear(q)
                        :: else
                        fi;
                        q = q + WORKERS
                :: else -> break
                od;
                assert(processing == 0)
        }
}

/* --- The main thread. */

inline free_generations() {
        d_step {
                i = 0;
                freed = generation;
#ifndef FREE_AT_ONCE
                do
                :: i < WORKERS ->
                        freed = (followed[i] < freed -> followed[i] : freed);
                        i++
                :: else -> break
                od;
#endif
                i = 0
        }
}

inline begin_generation() {
        generation++;
        post_all(LETTER_FOLLOW);
#ifdef FREEING
        free_generations()
#endif
}

/* Whether its time will be over before everybody is answered. */
inline begin_stopping() {
        stopping = 1;
        loading = 0;
        if
        :: ends = 1
        :: ends = 0
        fi
}

inline shut_down() {
        if
        :: !stopping ->
                begin_stopping();
                gate_settle(STOP, OPEN)
        :: else
        fi
}

inline hand_over() {
        if
        :: !stopping ->
                begin_stopping();
                look(generation, k);
                if
                :: k != PENDING -> k = 0; begin_generation()
                :: else
                fi;
                post_all(LETTER_LEAVE);
                ends = 1
        :: else
        fi
}

/* Whether a generation follows on this one, which is lost or, having failed, is to be loaded again. */
inline choose_next() {
        if
        :: generation + 1 < GENERATIONS -> next = 1
        :: next = 0
        fi
}

proctype main_thread() {
        byte i, k;
        bit loading = 1, stopping, next, ends, checking, term, leave;

        /* The signals that are going to come. */
        if
        :: skip
        :: term = 1
#ifdef HAND_OVER
        :: leave = 1
#endif
        fi;
end_wait:
        do
        :: loading -> loading = 0; gate_settle(generation, OPEN); choose_next()
        :: loading -> loading = 0; gate_settle(generation, FAILED);
                if
                :: shut_down()
                :: choose_next()
                fi
        :: next && !stopping -> next = 0; checking = 0; begin_generation(); loading = 1
        :: term -> term = 0; shut_down()
#ifdef HAND_OVER
        :: leave && (generation + 1 < GENERATIONS || state[generation] == PENDING) -> leave = 0; hand_over()
#endif
        :: letter_shutdown -> letter_shutdown = 0; shut_down()
        :: letter_suspect -> letter_suspect = 0; checking = (state[generation] == OPEN)
        :: checking -> checking = 0; post_all(LETTER_RESUME)
        /* Not while another thread has claimed the stop and not stored it: drain-timeout is longer than that. */
        :: ends && state[STOP] != CLAIMED -> break
        od;
        post_all(LETTER_STOP)
}

proctype administrator() {
        byte i;

        if
        :: gate_settle(STOP, OPEN); letter_shutdown = 1
        :: skip
        fi
}

#ifdef RIVAL
proctype rival() {
        byte i;

        gate_settle(0, FAILED)
}
#endif

#ifdef ACCOUNT
/* When nothing can happen any more. */
proctype accountant() {
        timeout -> assert(accepted == heard)
}
#endif

init {
        byte i;

        atomic {
                do
                :: i < WORKERS -> run worker(i); i++
                :: else -> break
                od;
                run main_thread();
#ifdef ADMINISTRATOR
                run administrator();
#endif
#ifdef RIVAL
                run rival();
#endif
#ifdef ACCOUNT
                run accountant();
#endif
        }
}

ltl answered { [] <> (accepted == heard) }
