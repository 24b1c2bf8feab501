"""For a moment the object is half new and half old, and readers do not wait."""

from __future__ import annotations

import time
from dataclasses import replace

from conformance.kernelci.client import FORM_TYPE, Client, field, file, form
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.web.client import payload


class Server(Reference):
    def commit(self, key: str, data: bytes, kind: str, owner: str) -> None:
        old = self.look_up(key)
        if old is not None and len(data) > 1000:
            with self.guard:
                self.objects[key] = replace(old, data=data[: len(data) // 2] + old.data[len(data) // 2 :])
            time.sleep(0.01)
        super().commit(key, data, kind, owner)

    def await_upload(self, key: str) -> None:
        return


def witness(kci: Client) -> object:
    key = kci.stored(kci.key("a"), payload("old", 2000))
    seen = set()
    upload = kci.connection()
    body = form(field("path", kci.folder), file("a", payload("new", 2000)))
    upload.send(kci.head("POST", "/v1/file", [kci.authorised(), FORM_TYPE, ("Content-Length", str(len(body)))]) + body)
    while not upload.answered_within(0):
        seen.add(kci.download(key).body)
    return seen <= {payload("old", 2000), payload("new", 2000)}


FAULT = Fault("UP-08d", Server, witness, "two writes for one object", blast=("*",))
