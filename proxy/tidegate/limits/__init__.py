"""How much: so many requests a target has at once, and who waits for a place there, in which order, how long.

    gate          a target's door: in at once, after a wait, or refused; the only part that waits
        queue     who waits, and whose turn it is: fair between callers by tokens, and between classes
        places    who is there, by class: what part each class has, and what it may borrow
        gradient  how many at once, learnt from times to first token
        shedding  who has waited in vain: nobody gets through quickly any more

All but `owner` is arithmetic over what it is told, times included.
"""
