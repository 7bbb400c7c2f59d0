"""From the hospital's worklist to the scan: who is scanned, and for which order.

`order` is one entry of a worklist, `query` fetches them (C-FIND), `store` keeps them for when the network is down, `binding`
says which one a scan answers, and `command` is ``edge-runtime worklist``.
"""
