"""Which targets serve a request: what a model name means, what is known of targets, and in which order they are tried.

    router, catalogue     model name -> its targets, in the order of the config
    request               the facts about a request that routing uses: its size, class, reach, and its session
    planner               the targets that may take the request, in the order in which they are tried; the excluded
                          targets, and why
        candidate         a target considered for a request, and the interface of a policy
        reach             the privacy line: which requests may leave the local engines
        policies/         one pure file each: candidates in, an order out
        affinity          which target serves the turns of a session
        replicas          which replica of an engine gets a request, and whether a further one is to be loaded
    target_registry       what is known of each target, and the one place where attempts report their outcome
        latency           how fast the target answers, by the length of prompts
        pressure          how long a prompt would wait at a local engine now
        health            ejection after failures, and the return through a trial and a slow start
        quality           how good the target's answers are
    offline               whether any hosted upstream can be reached
    schedule              the next attempt, by the outcome of the attempts before it
        retry_budget      how many further attempts a model may have
        backoff           how long to wait before the same target is tried again

All of it is arithmetic over its arguments and a clock. Nothing here does I/O but `catalogue`, which does it through the
functions that it is given.
"""
