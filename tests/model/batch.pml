/*
 * Two runs in one call, as the advancer commits them: the whole call at first; when the database refuses it or stays
 * silent, each item by itself; a call whose reply was lost may come to the database once more at any time. One run may be
 * guilty: whatever call has its item in it raises, and a call that raises commits nothing. Each run has one step, and its
 * item finishes that step and ends the run. Meanwhile a person may write to run 0, and the lease of run 1 may go to a
 * rival, who finishes it.
 *
 * FENCE   1: an item names the lease and the revision that it saw, and loses when either is another.
 * DIVIDED 1: a call that is refused is divided; 0: it fails for all that are in it.
 * REREAD  1: who loses under his own lease reads what is recorded; 0: takes his earlier call for committed.
 */
#ifndef FENCE
#define FENCE 1
#endif
#ifndef DIVIDED
#define DIVIDED 1
#endif
#ifndef REREAD
#define REREAD 1
#endif

#define LOST 2     /* replies that may be lost */

byte revision[2] = 1;
byte lease[2] = 1;      /* the worker's; 2: the rival's */
bool done[2];           /* the step is completed */
byte commits[2];        /* how often its result was written */
bool failed[2];         /* the worker gave the item up as uncommittable */
bool believed[2];       /* the worker was told that its item won */
bool wrote[2];          /* a commit of the worker's that stands in the rows */
byte seen[2] = 1;
bool open[2] = true;    /* the worker still has to hear of this item */
byte guilty = 2;         /* 0 or 1: that run; 2: nobody */
byte lost = 0;
bool sent_both = false; /* a copy of the whole call is under way */

/* One item inside of a call that does not raise. */
inline item(r, by, saw, won) {
  won = (!FENCE || (lease[r] == by && revision[r] == saw));
  if
  :: won -> done[r] = true; commits[r]++; revision[r]++;
     if :: by == 1 -> wrote[r] = true :: else fi
  :: else
  fi
}

/* What the worker makes of an answer: won; lost under its own lease: read again, where the step is done or is offered
   again at the new revision; lost to another lease: drop it. */
inline hear(r, won) {
  if
  :: won -> believed[r] = true; open[r] = false
  :: !won && lease[r] != 1 -> open[r] = false
  :: !won && lease[r] == 1 && !REREAD -> believed[r] = true; open[r] = false
  :: !won && lease[r] == 1 && REREAD && done[r] -> open[r] = false
  :: !won && lease[r] == 1 && REREAD && !done[r] -> seen[r] = revision[r]
  fi
}

proctype worker() {
  bool won0, won1;
  byte r = 0;

  /* The whole call. */
  if
  :: atomic { guilty != 2 ->                            /* it raises, and nothing is committed */
       if
       :: DIVIDED -> skip
       :: !DIVIDED -> failed[0] = true; failed[1] = true; open[0] = false; open[1] = false
       fi }
  :: atomic { guilty == 2 -> item(0, 1, seen[0], won0); item(1, 1, seen[1], won1); sent_both = true;
       if
       :: hear(0, won0); hear(1, won1)
       :: lost < LOST -> lost++                         /* committed, and nobody heard: divided */
       fi }
  fi;

  /* Each by itself, until it is heard of. */
  do
  :: r < 2 && open[r] ->
       atomic {
         if
         :: guilty == r -> failed[r] = true; open[r] = false
         :: guilty != r ->
              item(r, 1, seen[r], won0);
              if
              :: hear(r, won0)
              :: lost < LOST -> lost++                  /* and the same call is made again */
              fi
         fi }
  :: r < 2 && !open[r] -> r++
  :: r == 2 -> break
  od
}

/* The network delivers the whole call once more. Nobody hears the answer. */
proctype again() {
  bool won;
  byte saw0 = 1, saw1 = 1;
  if
  :: atomic { sent_both -> item(0, 1, saw0, won); item(1, 1, saw1, won) }
  :: skip
  fi
}

proctype person() {
  if
  :: atomic { !done[0] -> revision[0]++ }
  :: skip
  fi
}

/* The lease of run 1 expires, and a rival finishes it. */
proctype rival() {
  bool won;
  byte saw;
  if
  :: atomic { !done[1] -> lease[1] = 2; revision[1]++; saw = revision[1] };
     atomic { item(1, 2, saw, won) }
  :: skip
  fi
}

init {
  atomic {
    if :: guilty = 0 :: guilty = 1 :: guilty = 2 fi;
    run worker(); run again(); run person(); run rival()
  }
}

ltl result_once { [] (commits[0] <= 1 && commits[1] <= 1) }
ltl innocent_is_spared { [] ((failed[0] -> guilty == 0) && (failed[1] -> guilty == 1)) }
ltl told_is_written { [] ((believed[0] -> wrote[0]) && (believed[1] -> wrote[1])) }
ltl given_up_is_unwritten { [] ((failed[0] -> !wrote[0]) && (failed[1] -> !wrote[1])) }
ltl all_are_heard_of { <> (!open[0] && !open[1]) }
ltl done_at_last { <> ((guilty == 0 || done[0]) && (guilty == 1 || done[1])) }
