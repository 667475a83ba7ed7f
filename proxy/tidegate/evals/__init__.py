"""Measures the quality of targets: a small set of items with exact graders is sent through a running Tidegate.

    set.yaml, items   the items: each a question and its right answer
    grading           whether an answer is right
    client            sends an item to one target, over HTTP
    run               sends every item to every target, a few at once; counts the right answers by task

The set is small on purpose: it distinguishes a model that follows instructions from one that does not, in a minute and
for a few cents. It is not a benchmark, and none of its items comes from one.
"""
