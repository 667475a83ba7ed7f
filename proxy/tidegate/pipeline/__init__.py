"""The life of a request: the phases in order, and one bracket around them that closes on every exit.

    settle (                                     settlement: one log line, metrics, on every exit
        authenticate                             admission: who is calling
        read the request                         the front door's: sizes, depth, UTF-8, types
        authorise                                admission: may they use this model
        choose                                   preferences: how they want to be answered
        plan                                     routing: which targets may have it, in which order
        first to answer                          failover, walk: target after target, again after a pause; never after
                                                 the commit point, which is the first content
            gate                                 limits: a place at the target's door
            attempt                              one try at one target: dialect, transport, stream
                enter                            a place in an engine of ours: at once or, at the last resort,
                                                 when it has been loaded or woken; given back with the answer
            report                               what became of it, to routing's board
        show progress meanwhile                  loading, waiting: if the model is configured so, a stream that waits
                                                 for an engine begins with the progress of the load, as reasoning
        move meanwhile                           moving: a request without a first token leaves an engine that hangs
        go on                                    continuation: where the model wants it, the rest from another target
        (                                        what is yielded: the answer, closed on every exit
        )
    )

`chat.Pipeline.open` is this, as code. Cancellation, failover and settlement are exits of `async with` blocks, not
callbacks: leaving the block closes the upstream request. What the phases share travels in `context.RequestContext`;
what one try finds out, in `context.AttemptRecord`. `serving_state.ServingState` is all that a request may go to, and what is known of
it. The pipeline knows every back end by an interface only; `tidegate.app` puts them in.
"""
