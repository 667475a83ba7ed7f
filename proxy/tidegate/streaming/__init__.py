"""Makes one correct sequence of events of every upstream answer: a state machine (`choices`) and its sinks. Sans-I/O.

The rules are those of the contract's A.2, A.3 and B.0. The state machine reads the chunks of any host, and
an answer that is not streamed (a unary answer) as one big chunk, so that each rule is implemented once. It calls a sink
(`sinks`): a writer encodes chunks for a caller that requested a stream, an assembler builds the whole answer for a
caller that did not. Filters between the state machine and such a sink change or record the sequence.
"""
