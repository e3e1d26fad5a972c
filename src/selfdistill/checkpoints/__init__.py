"""The commit protocol: a folder is there whole or not at all, and what is loaded is what was saved.

``commit.commit`` writes a folder of its own, such as ``checkpoint-4``; ``commit.install`` replaces files in a folder
that also holds others, such as the model in a run's folder. Both stage on the same filesystem, force every file and
folder to disk, write ``manifest.json`` (size and hash of each file) last, read everything back, and only then rename.
``manifest.verify`` says whether a folder is as it was committed. ``find`` chooses the newest good checkpoint and
deletes old ones; ``lock`` keeps two runs out of one folder; ``leases`` share what is to do in one out among processes,
and ``owners`` tells who of these is dead. Nothing here knows what the files mean.
"""
