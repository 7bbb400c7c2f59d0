"""The queue of objects that leave the scanner: what is in it survives everything but the loss of its disk.

`states` says what may become of an object, `store` keeps that in SQLite, `objects` keeps the files. `device_time` is the clock
that nobody can set, `windows` are the hours of the day, `backoff` is the time until the next attempt, `retention` says what may go,
and `sender` works the queue off.
"""
