"""`edge-export qualify`: the report that whoever answers for a bundle signs.

`subject` (what is judged), `cases` (on which scans), `judge` (how each method fares on one), `rings` (invented structure),
`stability` (what small changes of the input do), `cost` (time and memory), `figures` (the few numbers that limits bound), `page`
(what a person reads), `run` (all of it in order, resumable).
"""
