"""Model servers of our own, and other people's: what starts, watches, restarts, shares the GPUs out, and stops.

An engine's life, of which `life` has every step:

    stopped ── start ──> starting ── answers ──> ready ── drain ──> draining ── sleep ──> sleeping
                            ^                      ^                   │                      │
                            │                      └──── readmit ──────┘                      │
                            └─────────────────────────── wake ────────────────────────────────┘

From each of the live ones `end` leads to stopping: the process was asked to end and still runs. `stop` leads to
stopped, and an end that was not asked for, whatever its exit status, to failed; `start` leads out of the last two. An
engine that refuses connections, or whose health route says that it is dead, is failed while its process still runs; it
has a few seconds to end by itself.
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
    places        which requests an engine has and which wait for it, and since when it has none
    hooks         the commands that run around its load; owns their processes
    watch         looks at a running one, tries one that is suspected or idle; owns what it last told
    doubt         whether a request failed in a way that may mean that the engine is dead, so that a look is wanted
    vitals        whether what was seen is progress; decides, and acts on nothing
    control       its health, metrics, sleep and one token, over the connection that only we have
    scrape        what its metrics mean; the same passed on under a label
    adapters      LoRA adapters that come and go; owns the list of those, which an engine forgets

    process       one child in a session of its own; owns it
    lines         what is kept of its output; owns that
    warden        the script between us and an engine: when either is gone, the whole session is killed
    orphans       the mark of an engine's processes; ends those that a killed Tidegate and its wardens have left
    sockets       the folder of its socket, and what a killed Tidegate left of such; free ports

    sharing       who holds how much of which GPU, and who waits; owns that, and acts on
    turns         which engine is loaded next, and when others close and make room for it; pure
    plan          who goes so that another can come; pure
    placement     which GPUs an engine takes; pure
    gpus          what GPUs there are

    kinds         every kind, by its config
    command       the kind that is any command, with the names in it replaced
    vllm          the kind vLLM: its Python, its checkpoint, how long it may take
    vllm_command  its flags and variables; pure
    checkpoint    what is known of a model without loading it
    families      which parsers understand it; `deepseek` for those
    output        what lines of output mean: how far, and why it ended, with the cure; pure
    estimate      how long a start will still take, from earlier ones; owns what those took
    endings       why one has ended that had been ready: signals, and what it says of its processes; pure
    vllm_server   the script that runs in vLLM's Python, where nothing of ours is
    llamacpp      the kind llama.cpp; `llamacpp_server` is its child
    faults        what the config says of engines that no machine could start, or that does nothing
    gguf          what a model's file says: whether its template knows tools, the size of its cache

The facts of vLLM that all this rests on are in the reference `vllm.md`, sections 4 to 6.
"""
