"""What every storage protocol over HTTP/1.1 has to keep: the checks that protocols share.

A check here belongs to a protocol when the protocol's table names it; what differs, such as how an object is stored and
where it is then, the protocol's client tells.
"""
