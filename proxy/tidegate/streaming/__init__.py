"""What a correct chunk sequence is: one state machine (`choices`) and those it tells (`sinks`). Sans-I/O.

DESIGN 5 and the contract's A.2, A.3 and B.0 are the law here. The machine reads chunks of any host, and unary answers
as one big chunk, so that each rule stands once; the writers make chunks for a caller who streams, the assemblers make
the answer for one who does not.
"""
