"""The write-ahead log of raw readouts: a scan that was acknowledged survives the loss of power. See docs/journal.md.

layout.py     what a file holds, byte by byte, and what its name says
disk.py       the few calls to the disk that everything else goes through
writer.py     one scan, group by group, each on disk before it is acknowledged
record.py     reading a file back: which groups are whole, what was torn, what was damaged
folder.py     all scans of a server: those that were interrupted, those that are kept, and until when
"""
