"""The list is matched with regard to case."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def agent_banned(self, agent: str) -> bool:
        return any(name in agent for name in ("GPTBot", "CCBot", "AhrefsBot", "SemrushBot"))


def witness(kci: Client) -> object:
    return kci.get("/", User_Agent="gptbot").status


FAULT = Fault("GA-01b", Server, witness, "a substring test without folding")
