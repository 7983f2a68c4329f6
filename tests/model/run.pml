/*
 * One run with one step, as the SQL functions treat it: claim, advance (finish the step and end the run), heartbeat-less
 * leases that may expire at any moment, a stop by its people, and an answer that is written while a worker holds the
 * run. Each atomic block is one call, that is, one transaction. Workers may die between any two calls, replies of calls
 * that were committed may be lost, and a worker that lost its lease wakes up and goes on as if nothing had happened.
 *
 * FENCE     1: an advance names the lease and the revision that it saw, and loses when either is another.
 * KEYED     1: the provider answers a repeat under the same effect key without doing it again.
 * STOP_KEPT 1: a run that leaves its worker's hands with a stop on it ends; 0: the mark is dropped with the lease.
 */
#ifndef FENCE
#define FENCE 1
#endif
#ifndef KEYED
#define KEYED 1
#endif
#ifndef STOP_KEPT
#define STOP_KEPT 1
#endif

#define CLAIMS 3
#define TROUBLES 2

mtype = { queued, leased, waiting, ended };

mtype status = queued;
byte revision = 1;
byte lease = 0;       /* the present lease_id; 0: none */
byte claims = 0;      /* how many lease_ids were given out */
bool stop = false;    /* stop_requested_at of a leased run */
bool open = true;     /* a question of another step is open */
bool done = false;    /* the step is completed */

byte commits = 0;     /* how often the step's result was written */
byte ends = 0;        /* how often the run ended */
byte effects = 0;     /* how often the provider did it */
bool promised = false;/* people were told: it will be stopped */
byte troubles = 0;

inline end_run() { status = ended; lease = 0; open = false; ends++ }
inline trouble() { troubles < TROUBLES -> troubles++ }

active [2] proctype worker() {
  byte mine, seen;
  bool has = false, heard_stop, knows_done, won, same;

idle:
  do
  :: atomic { status == queued && claims < CLAIMS ->            /* claim */
       claims++; lease = claims; revision++; status = leased;
       mine = lease; seen = revision; heard_stop = stop; knows_done = done; has = true }
  :: atomic { has && !knows_done && !heard_stop -> skip };       /* perform, under the step's one effect key */
       atomic {
         if
         :: KEYED && effects > 0 -> skip
         :: else -> effects++
         fi }
       goto offer
  :: atomic { has && (knows_done || heard_stop) -> skip }; goto offer
  :: atomic { has -> trouble(); has = false }                    /* killed: it forgets */
  :: atomic { !has && (status == ended || (claims == CLAIMS && status == queued)) -> break }
  od;
  goto gone;

offer:                                                           /* advance: the result, then what follows */
  atomic {
    won = (!FENCE || (lease == mine && revision == seen));
    if
    :: won && status != ended && heard_stop -> revision++; end_run()
    :: won && status != ended && !heard_stop && !knows_done ->
         done = true; commits++; revision++;
         if
         :: open && stop && STOP_KEPT -> end_run()
         :: open && !(stop && STOP_KEPT) -> status = waiting; lease = 0; stop = false
         :: !open -> end_run()
         fi
    :: won && status != ended && !heard_stop && knows_done ->
         revision++;
         if
         :: open && stop && STOP_KEPT -> end_run()
         :: open && !(stop && STOP_KEPT) -> status = waiting; lease = 0; stop = false
         :: !open -> end_run()
         fi
    :: won && status == ended && !FENCE -> commits++; ends++     /* nobody stops it */
    :: else -> skip
    fi;
    same = (!won && lease == mine)
  }
  if
  :: atomic { trouble() } -> goto offer                          /* committed or not, the reply was lost: repeat */
  :: atomic { trouble(); has = false } -> goto idle              /* killed after the call */
  :: atomic { won || !same -> has = false } -> goto idle
  :: atomic { same -> seen = revision; heard_stop = stop; knows_done = done };  /* read again, offer again */
       goto offer
  fi;
gone:
  skip
}

/* Time: a lease may expire while its holder lives, and whoever claims next also sweeps. */
active proctype sweep() {
  do
  :: atomic { status == leased && stop -> revision++; end_run() }
  :: atomic { status == leased && !stop && claims < CLAIMS -> status = queued; lease = 0; revision++ }
  :: atomic { status == leased && !stop && claims == CLAIMS -> revision++; end_run() }   /* poison */
  :: status == ended -> break
  :: atomic { status == queued && claims == CLAIMS -> revision++; end_run() }
  od
}

/* A person answers the open question, once, whoever holds the run. */
active proctype answer() {
  if
  :: atomic { status != ended && open ->
       open = false; revision++;
       if
       :: status == waiting -> status = queued
       :: else -> skip
       fi }
  :: status == ended -> skip
  fi
}

/* A person stops the run: at once where nobody holds it, else by a mark that leaves the revision. */
active proctype stopper() {
  if
  :: atomic { status == leased -> stop = true; promised = true }
  :: atomic { (status == queued || status == waiting) -> revision++; end_run() }
  :: status == ended -> skip
  fi
}

ltl result_once { [] (commits <= 1) }
ltl ended_once { [] (ends <= 1) }
ltl effect_once { [] (effects <= 1) }
ltl stop_is_kept { [] (promised -> (status == ended || (status == leased && stop))) }
ltl ends_at_last { <> (status == ended) }
