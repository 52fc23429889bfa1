"""What `run` and `failures` are made of.

    machine     cores, processes, ports: owns what is started and ends it
    dispatch    the signed request that everybody is asked, and the check of the answer
    contenders  the proxies, and how each is started
    load        the load generators
    rounds      interleaved measuring, and the tables
    scenarios   what is asked of the contenders, one function each
    evidence    counts that repeat where times do not, and their comparison with the recorded ones
    setup       what has to be there
"""
