"""What puts the candidates of a request in order: one file and one line of `registry` each.

    ordered         as the config has them
    weighted        at random, by their weights
    least_latency   the sooner done one of two drawn at random
    least_cost      the cheapest
    best_quality    the one whose answers are best
    local_first     our own engines while they have room, then hosts elsewhere
    balanced        the least weighted sum of everything that is known

    expectation     how long a request will take there: what several of them compare
    slow_start      how a target that comes back takes its part by and by

A policy is pure but for the dice: the same candidates and the same throws are the same order.
"""
