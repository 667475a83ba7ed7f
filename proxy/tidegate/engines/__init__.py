"""Model servers of our own, and other people's: what starts, watches, restarts, shares the GPUs out, and stops.

An engine's life, of which `life` has every step:

    stopped ── start ──> starting ── answers ──> ready ── drain ──> draining ── sleep ──> sleeping
                            ^                      ^                   │                      │
                            │                      └──── readmit ──────┘                      │
                            └─────────────────────────── wake ────────────────────────────────┘

From each of the live ones `end` leads to stopping: the process was asked to end and still runs. `stop` leads to
stopped, and an end that was not asked for, whatever its exit status, to failed; `start` leads out of the last two. An
engine that refuses connections, or whose health route reports a failure, is failed while its process still runs; the
process has a few seconds to end by itself.
Requests get in while it is ready. The modules:

    base          the words: a kind of engine, its control, progress, load, status; an `Engine`, whoever runs it
    assembly      every engine of the config put together with its wires: `Engines`, the door of this package
    rollout       which replicas of an engine go next when its config has changed; pure

    supervisor    one engine whose process is ours: puts the next six together; owns the task that makes what is wanted
    settings      how an engine is to be treated, and how one is treated now
    orders        what is wanted of it; owns the goal
    status        what it does now, and how far its start is; owns the status, and tells of changes
    entrance      lets requests in, has them wait, or says why not; owns whether it is closed for another engine
    child         its process over all its starts, and why that has ended; owns the process
    running       a started one until it is to stop: knocked at, looked at, suspected, asleep, awake again
    external      one that somebody else runs: the same looks, no orders
    life          states and events, one table
    places        counts the requests in an engine and those that wait for it, and since when it has none
    hooks         the commands that run before and after its load; owns their processes
    watch         checks a running one, and asks one that hangs or is idle for a token; owns what it last told
    doubt         a failed request may mean that the engine is dead: asks for a health check at once
    vitals        whether what was seen is progress; decides, and acts on nothing
    control       its health, metrics, sleep and one token, over the connection that only we have
    scrape        what its metrics mean; the same passed on under a label
    adapters      LoRA adapters that come and go; owns the list of those, which an engine forgets

    process       one child in a session of its own; owns it
    lines         the lines of its output that are kept; owns them
    warden        the script between us and an engine: when either is gone, the whole session is killed
    orphans       marks the processes of engines; ends those that a killed Tidegate and its wardens have left
    sockets       the folder of its socket, and such folders that a killed Tidegate left; free ports

    sharing       which engine holds how much of which GPU, and which ones wait; owns that, acts on `turns`
    turns         which engine is loaded next, and which ones make room for it, and when; pure
    plan          who goes so that another can come; pure
    placement     which GPUs an engine takes; pure
    gpus          what GPUs there are

    kinds         every kind, by the class of its config
    command       the kind `command`: any server, started by a command of the config
    vllm          the kind vLLM: its Python, its checkpoint, how long it may take
    vllm_command  its flags and variables; pure
    checkpoint    what is known of a model without loading it
    families      which parsers understand it; `deepseek` for those
    output        what lines of output mean: how far, and why it ended, with the cure; pure
    estimate      how long a start will still take, from the start before; owns what that took
    start_limit   how long a start may take, by the size of the model; pure
    endings       why an engine that had been ready has ended: its exit status, and what its output says; pure
    vllm_server   the script that runs in vLLM's Python, where nothing of ours is
    llamacpp      the kind llama.cpp; `llamacpp_server` is its child
    faults        settings of engines that could work on no machine, or that do nothing
    gguf          what a GGUF file says: whether its chat template knows tools, the size of its cache

The facts of vLLM that all this rests on are in the reference `vllm.md`, sections 4 to 6.
"""
