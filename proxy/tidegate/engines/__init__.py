"""Engines: local model servers. Tidegate starts, watches and stops them, or only watches them; it divides the GPUs.

A managed engine is a child process of Tidegate; `supervision.supervisor.Supervisor` runs it. An external engine was
started by another program or by the operator; Tidegate only watches it (`external.ExternalEngine`). Both implement
`base.Engine`. `assembly.Engines` makes all engines of the config, and is what the rest of Tidegate uses.

The states of an engine; `states` has every transition:

    stopped ── start ──> starting ── answers ──> ready ── drain ──> draining ── sleep ──> sleeping
                            ^                      ^                   │                      │
                            │                      └──── readmit ──────┘                      │
                            └─────────────────────────── wake ────────────────────────────────┘

- An engine takes requests only in the state ready.
- A draining engine takes no new requests: it is about to sleep or to stop, or is suspected to hang. `readmit` leads
  back to ready.
- From each state but stopped and failed, the event `end` leads to stopping: the process was signalled to end and still
  runs. `stop` then leads to stopped.
- If the process ends without having been stopped, the event `crash` leads to failed, whatever the exit status is.
- An engine that refuses connections, or whose health route reports a failure, is failed too, while its process still
  runs. The process then has a few seconds to end by itself. After that the engine is ready again if its health route
  answers, else Tidegate ends the process.
- `start` leads from stopped and failed to starting.

The modules of this package:

    base          the shared types: a kind of engine, its command, control, load and status; the protocol `Engine`
    assembly      `Engines`: all engines of the config; changes to the engines of a new config while they run
    factory       makes one engine with its transports and its control
    kinds         every kind of managed engine, by the class of its config
    command       the kind `command`: any server that is started by a command of the config
    external      an external engine: watched, but not started or stopped
    control       an engine's own routes: health, metrics, sleep, and a request for one token
    scrape        reads an engine's metrics, and passes them on with a label
    requests      counts the requests in an engine and those that wait for it
    states        the states of an engine and the transitions between them, in one table
    changes       which engines a new config adds, removes, restarts or adjusts; pure
    replica_rollout
                  which replicas of an engine are replaced next when its config has changed; pure
    drainer       drains and closes engines that are not in the config any more
    output        reads an engine's output: how far a start is, and why an engine has ended, with the cure; pure
    exit_reasons  why an engine that had been ready has ended: its exit status, and its output; pure
    start_limit   how long a start may take, by the size of the model; pure
    faults        settings with which an engine could start on no machine, and settings that do nothing

The sub-packages:

    supervision   one managed engine, from start to stop: its goal, its status, its requests, its health checks
    process       the child process of an engine: its output, its socket, the warden that kills what an engine leaves
                  behind, and processes that a killed Tidegate has left
    gpus          the GPUs of the machine, the placement of engines on them, and which engine makes room for another
    vllm          the kind vLLM: its command line, its parsers by model family, checkpoints and LoRA adapters
    llamacpp      the kind llama.cpp: its server, and the metadata of GGUF files

The facts about vLLM that the code relies on are in the reference `vllm.md`, sections 4 to 6. References are notes
of the project. They are kept in `shared/reference/` beside the checkout, not in the repository.
"""
