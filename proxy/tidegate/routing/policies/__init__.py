"""The policies, which put the candidates of a request in order: one file and one line of `registry` each.

    ordered         as in the config
    weighted        at random, by their weights
    least_latency   the faster one of two chosen at random
    least_cost      the cheapest
    best_quality    the one with the best answers
    local_first     local engines that are not overloaded, then hosted upstreams
    balanced        the least weighted sum of everything that is known

    expectation     the expected time of a request, which several policies compare
    slow_start      how a target that was ejected gets its requests back gradually

A policy is pure, except for its random numbers: the same candidates and the same numbers give the same order.
"""
