"""How many requests a target has in flight at once, and which requests wait for a slot there, in which order, how long.

    concurrency   the concurrency limit of one target: a request gets a slot at once, after a wait, or is refused; the
                  only module that waits
    queue         the waiting requests, and which is next: fair between callers by tokens, and between classes
    slots         the slots taken, by class: how many each class may take, and how many it may borrow
    gradient      an adaptive limit, learnt from times to first token
    shedding      when waiting requests are dropped: after a time in which no request got a slot quickly

All modules but `concurrency` are arithmetic over their arguments; times are arguments too.
"""
