"""Training runs are killed, their disks fail, lose power or rot, and what is left must be whole: ``make faults``.

``__main__`` plans cases and counts; each part has ``plan``, the names of its cases, and ``run``, one case by its name.
A case depends on its name and the seed alone, so that the line printed for a violation replays it.

home         a tiny model, rows, and what uninterrupted runs end with
operations   watches the operations of a process on files
failing      disks that fail
fork         runs commands in forked processes, and kills them
kills        SIGKILL at random moments, and at every operation of a save, a retention, the final save, a resume
power        what a power cut can leave of recorded operations
images       such states of a run's folder, and what is found in them
corruptions  damaged files of a checkpoint
ledgers      kills and full disks while a ledger learns
others       full and broken disks, export, ledger, locks, folders that vanish
fuzz         mutated inputs
"""
