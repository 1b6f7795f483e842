"""The room in which a model of transformers is watched. Read it in this order:

    registry         where the models fetch their attention, and who listens there
    masks            what a call's mask really hides
    stacks           which module is which layer
    measure          one call: its survey, and the proof that it is the model's own
    strands, runs    calls joined over a generation; the layers of one run together
    store            where q and k are kept
    streams          the residual stream around attention, believed only where it adds up
    watcher          what klieg.watch() gives, made of all these
    implementation   the name "klieg" among transformers' own attention functions
"""
