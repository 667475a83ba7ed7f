"""How good targets are, measured: a small set of our own items with exact graders, asked through a running Tidegate.

    set.yaml, items   the items: what is asked, and the one right answer
    grading           whether an answer is that
    asking            an item as a request to one target, over HTTP
    run               every item to every target, a few at once; right ones counted by task

The set is small on purpose: it tells a model that follows instructions from one that does not, in a minute and for a
few cents. It is no benchmark, and none of its items comes from one.
"""
