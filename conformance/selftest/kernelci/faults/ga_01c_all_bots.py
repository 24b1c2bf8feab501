"""Every bot is refused, the search engines too."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def agent_banned(self, agent: str) -> bool:
        return "bot" in agent.lower()


def witness(kci: Client) -> object:
    return kci.get("/", User_Agent="Googlebot/2.1").status


FAULT = Fault("GA-01c", Server, witness, "a list that holds the word bot")
