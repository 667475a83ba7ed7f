"""Makes one correct sequence of events of every upstream answer: a state machine (`choices`) and its sinks. Sans-I/O.

The rules are in DESIGN 5 and in the contract's A.2, A.3 and B.0. The state machine reads the chunks of any host, and a
unary answer as one big chunk, so that each rule is implemented once. It calls a sink (`sinks`): a writer encodes chunks
for a caller who requested a stream, an assembler builds the whole answer for one who did not. Filters between them
change or record the sequence.
"""
