"""Which target serves a request: names, what is known of targets, and what puts them in order.

    router, catalogue     a name -> its targets, in the order of the config
    ask                   what of a request matters here: its size, class, reach, and what it sticks by
    planner               the targets that may take it, in the order to be tried; who may not, and why
        reach             the privacy line: what may go where
        policies/         one pure file each: candidates in, an order out
        affinity          which target a session stays at
        replicas          which replica of an engine gets a request, and whether a further one is to be loaded
    board                 what is known of each target, and the one place where attempts report
        latency           how fast it answers, by the length of prompts
        pressure          how long a prompt would wait at an engine of ours now
        health            out after failures, back through half-open and a slow start
        quality           how good its answers are
        offline           whether anything elsewhere can be reached at all
    itinerary             what to try next, by what has become of the tries before
        budget, backoff   how often, and when, something may be tried again

All of it is arithmetic over what it is told and a clock: nothing here does I/O but `catalogue`, which asks through
functions that it is given.
"""
