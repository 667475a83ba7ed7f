"""The life of a model request: the phases in order, inside one bracket that settles the request on every exit.

`request.Pipeline.open` is this page as code. Each line names the module that does the phase, and the statuses with
which it may end the request:

    settlement              open the bracket: count the request as in flight
      admission             authenticate: which caller is it?                             401
      (the front door)      read and parse the request: size, depth, UTF-8, types         400, 408, 413, 415
      admission             authorise: every known caller may use every model
      preferences           resolve the caller's options: reach, priority, reasoning      400, 403
      (routing.planner)     plan: the targets that may serve the request, in order        404, 503
      failover              one target after another, until one answers:                  as the last target failed
        (target_registry)     count the attempt; refuse a target that is ejected or
                              in cooldown
        (concurrency limit)   acquire a slot at the target; the last resort may queue     429
        attempt.attempt       one attempt at one target:
          (upstream.enter)      acquire a slot in a local engine; the last resort may
                                wait until the engine has started                         503
          (dialect, transport)  translate and send                                        400, 502, 504
          attempt.source        read into the stream's state machine, up to ...
      -- the commit point: the answer has its first content, and `Pipeline.open` yields it --
      continuing_answer     where the model's config wants it, another target continues
                            an answer that breaks from here on                            in band
    settlement              close the bracket: one log line, metrics, the hook
                            (`on_answered`) that remembers answers for scores

Before the commit point a failed attempt is followed by another one, and the caller sees nothing of it. After the commit
point an error is sent in band, unless another target continues the answer. Beside failover there are:

    hedging           A second attempt beside a slow first one: the first answer wins, the other attempt is cancelled.
    attempt.interruptible_wait
                      Ends an attempt that waits for its first content, if its engine hangs (`EngineStalled`);
                      failover goes to the next target.
    engine_start_stream
                      A stream that waits for an engine begins with the progress of the engine's start
                      (`engine_start_progress`), shown as reasoning. That is no content, so failover stays possible.

The data of one request: `context.RequestContext` is what the phases share; `context.AttemptRecord` is what one attempt
found out. `RequestContext.record` is the record of the attempt that answers, or whose failure is reported.

An answer has the methods of `attempt.attempt.Answer`. It is wrapped, from the inside to the outside, by:

    attempt.answers             reads the upstream; unary, streamed or replayed
    attempt.answer_lease        owns what the attempt holds: connection, slots, count in flight
    continuing_answer           its parts come from several targets, and share an `attempt.stream_continuation`
    engine_start_stream         only while progress is shown

`attempt.structured` validates an answer that must fit a schema at a host that cannot guarantee it. `attempt.writers`
makes the writer or assembler for the caller's endpoint.

Where each exit settles:

    a failed attempt           `Attempt.run`: engine slot, then a check of the engine's health, if it may be dead
                               `AnswerLease.release`: count in flight, health and latency of the target, the slot
                               `Failover._record_failure`: the log line "upstream failed", what may be tried next
    an attempt that is         the same slots and counts, by `Attempt.run` and `AnswerLease.release`, without a failure
      cancelled before it answers
    the end of an answer,      `Answer.close`: connection, engine slot, then as `AnswerLease.release` above; a break
      whole or not             is logged by `Pipeline.open`, or by failover if the answer is continued
    the loser of a hedge       `hedging.cancel_and_wait`: cancelled; if it has answered, its answer is closed
    a part that is continued   `ContinuingAnswer`: closed before the next part begins
    any exit of the request    `Pipeline.open`: the answer is closed, then `settlement` closes the bracket
    a request that never       `Pipeline.settle_without_answer`: the log line and the metrics alone
      enters `Pipeline.open`

Cancellation, failover and settlement are exits of blocks, not callbacks: when a caller disconnects, the task of its
request is cancelled, and leaving the blocks closes the upstream connection.

`upstream.ServingState` holds everything that a request may be sent to; `failover_context.FailoverContext` holds what
the failover of all requests shares. The pipeline uses every back end through a protocol; `tidegate.app` supplies the
objects.
"""
