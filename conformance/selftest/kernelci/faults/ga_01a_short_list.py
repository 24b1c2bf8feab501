"""Only one crawler is on the list."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def agent_banned(self, agent: str) -> bool:
        return "gptbot" in agent.lower()


def witness(kci: Client) -> object:
    return kci.get("/", User_Agent="CCBot/2.0").status


FAULT = Fault("GA-01a", Server, witness, "a list that was written years ago")
