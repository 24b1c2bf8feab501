"""A download goes on with the bytes of the new version."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client, path_of
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request, Wire
from conformance.web.client import payload


class Server(Reference):
    def send_body(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        key = request.path.strip("/") if request is not None else ""
        for at in range(0, len(answer.body), 65536):
            current = self.objects.get(key)
            data = current.data if current is not None and answer.status == 200 else answer.body
            wire.sock.sendall(data[at : at + 65536])


def witness(kci: Client) -> object:
    key = kci.stored(kci.key("large"), payload("old", 8 << 20))
    reader = kci.connection(receive_buffer=16384)
    reader.send(kci.head("GET", path_of(key)))
    head, _ = reader.receive_head()
    kci.stored(key, payload("new", 8 << 20))
    return reader.receive_body(head, "GET")[0] == payload("old", 8 << 20)


FAULT = Fault("DL-06d", Server, witness, "a file that is opened again for each block", blast=("*",))
