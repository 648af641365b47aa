/*
 * A model of the suspects: requests that were in flight when the model crashed, in the lanes of all workers, from the crash to
 * when all of them are answered. Each step that another thread can see is a step of its own.
 *
 * lane             one thread each. In it:
 *   lose()               daemon/queue/lane_retry.c: lane_ended(), with lane_note_lost(); the connection breaks
 *   follow()             daemon/queue/lane_life.c: lane_follow(), with lane_settle_lost()
 *   turn()               daemon/worker.c: MESSAGE_PULSE, with lane_settle_lost()
 *   settle()             daemon/queue/lane.c: lane_settle_waiting(), with release() and lane_is_open()
 *   end_suspect()        lane_request_end(), with clear_suspect()
 * main_thread      daemon/server_load.c: load_lost(), load_ready(), server_load_turned(), server_suspects_cleared()
 *
 * The events of connections that broke are in the epoll set of a worker before the message that asks it for a turn, and epoll
 * hands out events in that order: a lane has heard of its losses when it has its turn. That the place of the suspects is offered
 * to the next lane is for places.pml: here a lane takes it when it is free.
 *
 * What holds in every state:
 *
 *   - No request that is not a suspect goes to the model while there is a suspect, or a request of which it is not known yet
 *     whether it is one.
 *   - One suspect is with the model at the most, and nothing beside it.
 *   - In the end all requests are answered, and none is counted as a suspect.
 *
 * Mutants, each of which check.sh finds to be wrong:
 *
 * NO_TURN          the gate opens without a turn of all workers
 * COUNT_FIRST      a turn counts before what was lost is judged
 * NO_RESUME        nobody is told that there are no suspects any more
 * JUDGE_LATER      a turn does not judge: that is left to the end of the turn
 * CLEAR_FIRST      the end of the last suspect is told before it is counted
 */

#ifndef LANES
#define LANES 2
#endif
/* Requests of each lane that are in flight at the crash, and others that come at any moment. */
#ifndef FLYING
#define FLYING 2
#endif
#ifndef COMING
#define COMING 1
#endif

byte flying[LANES];             /* in flight at the crash; the lane has not heard of the end yet */
byte lost[LANES];               /* put back, and not judged */
byte suspect[LANES];            /* of them, those that wait */
byte other[LANES];              /* other requests that wait */
byte coming[LANES];             /* those that are still to come */
bool followed[LANES];           /* the lane is at the next generation */
bool wake[LANES];               /* it is to settle */
bool ask_follow[LANES], ask_turn[LANES];        /* messages */
byte turned;
byte suspects;                  /* of all lanes */
byte alone;                     /* suspects with the model */
byte beside;                    /* others with it */
bool open;
bool cleared;                   /* a message to the main thread */

inline judge(i) {
        d_step {
                suspect[i] = suspect[i] + lost[i];
                suspects = suspects + lost[i];
                lost[i] = 0;
        }
}

inline lose(i) {
        flying[i]--;
        lost[i]++;
        /* It is judged at the end of the turn, if the lane has followed. */
        wake[i] = true
}

inline follow(i) {
        ask_follow[i] = false;
        followed[i] = true;
        judge(i);
        wake[i] = true
}

inline turn(i) {
        ask_turn[i] = false;
#ifdef COUNT_FIRST
        turned++;
        judge(i)
#elif defined(JUDGE_LATER)
        turned++
#else
        judge(i);
        turned++
#endif
}

inline start_other(i) {
        d_step {
                assert(suspects == 0 && alone == 0);
                k = 0;
                do
                :: k < LANES -> assert(lost[k] == 0 && flying[k] == 0); k++
                :: else -> break
                od;
                other[i]--;
                beside++;
                k = 0
        }
}

inline settle(i) {
        wake[i] = false;
        if
        :: followed[i] -> judge(i)
        :: else
        fi;
        if
        :: open && followed[i] ->
                none = suspects == 0;
                do
                :: other[i] > 0 && none -> start_other(i)
                :: else -> break
                od
        :: else
        fi;
        none = false
}

inline end_suspect() {
        mine = false;
        alone--;
#ifdef CLEAR_FIRST
        last = suspects == 1;
        if
        :: last -> cleared = true
        :: else
        fi;
        suspects--;
#else
        d_step {
                suspects--;
                last = suspects == 0
        }
        if
        :: last ->
#ifndef NO_RESUME
                cleared = true
#else
                skip
#endif
        :: else
        fi;
#endif
        last = false
}

proctype lane(byte i) {
        byte k;
        bool none, mine, last;

end:    do
        :: coming[i] > 0 -> coming[i]--; other[i]++; wake[i] = true
        :: flying[i] > 0 -> lose(i)
        :: ask_follow[i] -> follow(i)
        /* Behind the events of its connections, and the message before. */
        :: ask_turn[i] && flying[i] == 0 && !ask_follow[i] -> turn(i)
        :: wake[i] -> settle(i)
        :: atomic { suspect[i] > 0 && open && alone == 0 -> suspect[i]--; alone++; mine = true; assert(beside == 0) }
        :: mine -> end_suspect()
        od
}

proctype main_thread() {
        byte i;

        i = 0;
        do
        :: i < LANES -> ask_follow[i] = true; i++
        :: else -> break
        od;
#ifndef NO_TURN
        i = 0;
        do
        :: i < LANES -> ask_turn[i] = true; i++
        :: else -> break
        od;
        turned == LANES;
#endif
        open = true;
        i = 0;
        do
        :: i < LANES -> wake[i] = true; i++
        :: else -> break
        od;
end:    do
        :: cleared ->
                cleared = false;
                i = 0;
                do
                :: i < LANES -> wake[i] = true; i++
                :: else -> break
                od
        od
}

/* When nothing can happen any more. */
active proctype judge_end() {
        timeout;
        byte j = 0;
        do
        :: j < LANES -> assert(other[j] == 0 && suspect[j] == 0 && lost[j] == 0 && flying[j] == 0); j++
        :: else -> break
        od;
        assert(suspects == 0 && alone == 0 && open)
}

init {
        byte j = 0;

        atomic {
                do
                :: j < LANES -> flying[j] = FLYING; coming[j] = COMING; j++
                :: else -> break
                od;
                j = 0;
                do
                :: j < LANES -> run lane(j); j++
                :: else -> break
                od;
                run main_thread()
        }
}
