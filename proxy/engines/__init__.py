"""Model servers of our own, and other people's: what starts, watches, restarts, shares the GPUs out, and stops.

An engine's life, of which `life` has every step:

    stopped ── start ──> starting ── answers ──> ready ── drain ──> draining ── sleep ──> sleeping
                            ^                      ^                   │                      │
                            │                      └──── readmit ──────┘                      │
                            └─────────────────────────── wake ────────────────────────────────┘

From each of the live ones `end` leads to stopping: the process was asked to end and still runs. `stop` leads to
stopped, and an end that was not asked for, whatever its exit status, to failed; `start` leads out of the last two.
Requests get in while it is ready. The modules:

    base          the words: a kind of engine, its control, progress, load, status; an `Engine`, whoever runs it
    assembly      every engine of the config put together with its wires: `Engines`, the door of this package
    rollout       which replicas of an engine go next when its config has changed; pure

    supervisor    one engine whose process is ours; owns its status, and one task that makes what is wanted of it
    external      one that somebody else runs: the same looks, no orders
    life          states and events, one table
    places        who is in an engine, and since when nobody is
    watch         looks at a running one, tries one that is suspected; owns what it last told
    vitals        whether what was seen is progress; decides, and acts on nothing
    control       its health, metrics, sleep and one token, over the connection that only we have
    scrape        what its metrics mean; the same passed on under a label
    adapters      LoRA adapters that come and go; owns the list of those, which an engine forgets

    process       one child in a session of its own; owns it and the end of its output
    warden        the script between us and an engine: when either is gone, the whole session is killed
    sockets       the folder of its socket, and what a killed Tidegate left of such

    sharing       who holds how much of which GPU, and who waits; owns that
    plan          who goes so that another can come; pure
    placement     which GPUs an engine takes; pure
    gpus          what GPUs there are

    vllm          the kind vLLM: its Python, its checkpoint, how long it may take
    command       its flags and variables; pure
    checkpoint    what is known of a model without loading it
    families      which parsers understand it; `deepseek` for those
    output        what lines of output mean: how far, and why it ended, with the cure; pure
    vllm_server   the script that runs in vLLM's Python, where nothing of ours is
    llamacpp      the kind llama.cpp; `llamacpp_server` is its child
    gguf          whether the chat template in a model's file knows tools

The facts of vLLM that all this rests on are in the reference `vllm.md`, sections 4 to 6.
"""
